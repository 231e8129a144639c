"""The file that lets a stopped training run go on: what it is named after, and what becomes of one that is no use."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

LOOKED_AT = 64  # numbers of each weight


class UnfittingError(ValueError):
    """What was saved does not fit what is trained."""


def digest(*parts: Any) -> str:
    """Of tensors, numbers, texts, and lists and dicts of them; other objects count by their type."""
    found = hashlib.sha256()
    _feed(found, parts)
    return found.hexdigest()[:16]


def _feed(found: Any, part: Any) -> None:
    if isinstance(part, Tensor):
        found.update(repr(list(part.shape)).encode())
        found.update(part.detach().float().cpu().contiguous().numpy().tobytes())
    elif isinstance(part, Mapping):
        for key in sorted(part, key=repr):
            _feed(found, (repr(key), part[key]))
    elif isinstance(part, list | tuple):
        found.update(f"{type(part).__name__} {len(part)}".encode())
        for one in part:
            _feed(found, one)
    else:
        plain = part is None or isinstance(part, str | int | float | bool)
        found.update((repr(part) if plain else type(part).__name__).encode())


def weights_of(network: Any) -> dict[str, Tensor]:
    """A few numbers of every weight, to tell networks apart by."""
    state = {} if network is None else network.state_dict()
    return {key: value.flatten()[:LOOKED_AT] for key, value in state.items() if isinstance(value, Tensor)}


def packed(delta: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and the optimiser's state under one name each."""
    found = {f"delta/{key}": value for key, value in delta.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        found |= {f"optimizer/{index}/{slot}": value for slot, value in slots.items() if value is not None}
    return found


def take_up(saved: Mapping[str, Tensor], delta: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """What `packed` gave. Raises UnfittingError for that of another training."""
    parts: dict[str, dict[str, Tensor]] = {"delta": {}, "optimizer": {}}
    state: dict[int, dict[str, Tensor]] = {}
    try:
        for key, value in saved.items():
            part, name = key.split("/", 1)
            parts[part][name] = value
        delta.load_state_dict(parts["delta"])
        shapes = [parameter.shape for parameter in delta.parameters()]
        for name, value in parts["optimizer"].items():
            index, slot = name.split("/")
            if value.ndim and value.shape != shapes[int(index)]:
                raise UnfittingError(f"{name} has the shape {list(value.shape)}")
            state.setdefault(int(index), {})[slot] = value
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise UnfittingError(str(error).replace("\n", " ")) from error
    if not all(value.isfinite().all() for value in saved.values()):
        raise UnfittingError("it holds numbers that are not finite")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


class StateFile:
    """Tensors and losses of a training run, under a name made of all that it depends on."""

    def __init__(self, name: str):
        self.path = Path(folder_paths.get_user_directory()) / "guidance_training" / f"hspace_{name}.safetensors"

    def save(self, tensors: Mapping[str, Tensor], losses: list[list[float]]) -> None:
        """Whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        kept = {key: value.detach().clone().contiguous().cpu() for key, value in tensors.items()}
        save_file(kept, part, {"losses": json.dumps(losses)})
        part.replace(self.path)

    def load(self) -> tuple[dict[str, Tensor], list[list[float]]]:
        """What was saved; nothing where no run was stopped. A file that can't be read is set aside."""
        if not self.path.exists():
            return {}, []
        try:
            with torch.inference_mode(False), safe_open(self.path, "pt") as file:
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}
                losses = json.loads((file.metadata() or {})["losses"])
                return tensors, [[float(loss) for loss in batch] for batch in losses]
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            self.set_aside(error)
            return {}, []

    def set_aside(self, error: Exception) -> None:
        aside = self.path.with_suffix(".broken")
        self.path.replace(aside)
        logging.warning(
            "Train HSpace Direction: the state of the stopped run can't be taken up (%s); it was set aside as %s, and "
            "training begins anew",
            error,
            aside,
        )

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
