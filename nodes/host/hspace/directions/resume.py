"""The file that lets a stopped training run go on: what it is named after, and what becomes of one that is no use."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths
import torch
from torch import Tensor, nn

from .....models.facts import of_json
from .....models.memory import check_memory
from .....models.saving import replace_file
from .....models.state_dict import read
from .....models.training_files import joined, load_optimizer, load_weights, optimizer_tensors, parted
from ...errors import noticed

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
    return joined({"delta": delta.state_dict(), "optimizer": optimizer_tensors(optimizer)})


def take_up(saved: Mapping[str, Tensor], delta: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """What `packed` gave. Raises UnfittingError for that of another training."""
    parts = parted(saved)
    try:
        load_weights(delta, parts["delta"])
        load_optimizer(optimizer, parts.get("optimizer", {}))
    except (KeyError, RuntimeError, ValueError) as error:
        check_memory(error)
        raise UnfittingError(str(error)) from error


class StateFile:
    """Tensors and losses of a training run, under a name made of all that it depends on."""

    def __init__(self, name: str):
        self.path = Path(folder_paths.get_user_directory()) / "guidance_training" / f"hspace_{name}.safetensors"

    def save(self, tensors: Mapping[str, Tensor], losses: list[list[float]]) -> None:
        replace_file(tensors, self.path, {"losses": json.dumps(losses)})

    def load(self) -> tuple[dict[str, Tensor], list[list[float]]]:
        """What was saved; nothing where no run was stopped. A file that can't be read is set aside."""
        if not self.path.exists():
            return {}, []
        try:
            with torch.inference_mode(False):
                saved, metadata = read(self.path)
                tensors = {key: value.clone() for key, value in saved.items()}
                return tensors, _losses(metadata)
        except (KeyError, ValueError, TypeError) as error:
            self.set_aside(error)
            return {}, []

    def set_aside(self, error: Exception) -> None:
        aside = self.path.with_suffix(".broken")
        self.path.replace(aside)
        noticed(
            f"Train HSpace Direction: the state of the stopped run can't be taken up ({error}); it was set aside as "
            f"{aside}, and training begins anew"
        )

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _losses(metadata: Mapping[str, str]) -> list[list[float]]:
    """Of the steps of each batch. Raises ValueError for a batch without a step, and for what is no number."""
    found = of_json(metadata, "losses", list)
    if not all(isinstance(batch, list) and batch and all(map(_is_number, batch)) for batch in found):
        raise ValueError("its losses are no lists of numbers")
    return found


def _is_number(loss: Any) -> bool:
    return type(loss) is float and math.isfinite(loss)
