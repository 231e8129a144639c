"""Files of a training run: parts by name ("network/out.2.bias", "optimizer/0/exp_avg"), written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer


def joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Parts by name -> one flat dictionary, "part/key"."""
    return {f"{part}/{key}": value for part, tensors in parts.items() for key, value in tensors.items()}


def parted(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `joined`; a part without tensors is not in it."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, key = name.split("/", 1)
        parts.setdefault(part, {})[key] = value
    return parts


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """State of an optimiser, "parameter's index/slot", without the slots left empty (SGD's without momentum)."""
    state = optimizer.state_dict()["state"]
    return {name: value for name, value in joined(state).items() if isinstance(value, Tensor)}


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Takes up what `optimizer_tensors` gave; rates and other settings stay the optimiser's own."""
    state = {int(index): slots for index, slots in parted(tensors).items()}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def replace_file(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Written beside and renamed: a process killed here leaves the old file whole. Tensors may share their numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({key: value.detach().clone().contiguous().cpu() for key, value in tensors.items()}, part, metadata)
    part.replace(path)
