"""An exponential moving average of weights, which is what a run ships."""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import torch
from torch import Tensor, nn

Average = dict[str, Tensor]  # like a state dict; floating-point tensors are float32


def wide(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def start(network: nn.Module) -> Average:
    return {key: wide(value.detach().clone()) for key, value in network.state_dict().items()}


def share_of(step: int, decay: float) -> float:
    """How far the average goes towards the weights after so many steps, in (0, 1): further at the beginning."""
    return 1 - min(decay, (1 + step) / (10 + step))


def update(average: Average, network: nn.Module, share: float | Tensor) -> None:
    """average + share (weights - average), in place. `share` is a tensor [] where a graph repeats this."""
    weights = network.state_dict()
    keys = [key for key, value in average.items() if value.is_floating_point()]
    old, new = [average[key] for key in keys], [weights[key] for key in keys]
    if isinstance(share, Tensor):
        way = torch._foreach_sub(new, old)
        torch._foreach_mul_(way, share)
        torch._foreach_add_(old, way)
    else:
        torch._foreach_lerp_(old, new, share)
