"""What a training run leaves in files: parts by name ("network/out.2.bias", "optimizer/0/exp_avg")."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

STEP, SQUARES = "step", "exp_avg_sq"
ADAM, MOMENTUM = (STEP, "exp_avg", SQUARES), ("momentum_buffer",)  # what they keep of a weight


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


def load_weights(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raises RuntimeError for those of another network, ValueError for whole numbers instead of weights."""
    for key, own in network.state_dict().items():
        if key in state and state[key].is_floating_point() != own.is_floating_point():
            raise ValueError(f"it has {key} as {state[key].dtype}")
    network.load_state_dict(state)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """State of an optimiser, "parameter's index/slot", without the slots left empty (SGD's without momentum)."""
    state = optimizer.state_dict()["state"]
    return {name: value for name, value in joined(state).items() if isinstance(value, Tensor)}


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Takes up what `optimizer_tensors` gave; rates and other settings stay the optimiser's own.

    Raises ValueError for the state of other weights, or of another optimiser.
    """
    state = {int(index): slots for index, slots in parted(tensors).items()}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for index, slots in state.items():
        if not 0 <= index < len(weights):
            raise ValueError(f"the optimiser's weight {index} is none of {len(weights)}")
        _check_slots(slots, _slots(optimizer), weights[index], index)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _slots(optimizer: Optimizer) -> tuple[str, ...]:
    """What it keeps of a weight."""
    if isinstance(optimizer, Adam):
        return ADAM
    return MOMENTUM if optimizer.defaults.get("momentum") else ()


def _check_slots(slots: Mapping[str, Tensor], needed: tuple[str, ...], weight: Tensor, index: int) -> None:
    if sorted(slots) != sorted(needed):
        raise ValueError(f"the optimiser keeps {', '.join(needed) or 'nothing'}, and it has {', '.join(slots)}")
    for slot, value in slots.items():
        if value.shape != (torch.Size() if slot == STEP else weight.shape):
            raise ValueError(f"the optimiser's {slot} of weight {index} has the shape {list(value.shape)}")
        if not value.is_floating_point() or (slot in (STEP, SQUARES) and bool((value < 0).any())):
            raise ValueError(f"the optimiser's {slot} of weight {index} has numbers that it can't have")
