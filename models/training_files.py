"""What a training run leaves in files: parts by name ("network/out.2.bias", "optimizer/0/exp_avg")."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer


def joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Parts by name -> one flat dictionary, "part/key"."""
    return {f"{part}/{key}": value for part, tensors in parts.items() for key, value in tensors.items()}


def parted(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `joined`; a part without tensors is not in it."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, key = name.partition("/")
        parts.setdefault(part, {})[key] = value
    return parts


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """State of an optimiser, "parameter's index/slot", without the slots left empty (SGD's without momentum)."""
    state = optimizer.state_dict()["state"]
    return {name: value for name, value in joined(state).items() if isinstance(value, Tensor)}


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Takes up what `optimizer_tensors` gave; rates and other settings stay the optimiser's own.

    Raises ValueError for the state of other weights.
    """
    state = {int(index): slots for index, slots in parted(tensors).items()}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for index, slots in state.items():
        for slot, value in slots.items():
            if not 0 <= index < len(weights) or value.shape not in (torch.Size(), weights[index].shape):
                raise ValueError(f"the optimiser's {slot} of weight {index} has the shape {list(value.shape)}")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
