"""Reading checkpoints without ever running what is in them, and small readings of their shapes."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

StateDict = Mapping[str, Tensor]
WRAPPERS = ("state_dict", "ema_state_dict", "ema", "model_state_dict", "model", "params")  # in order of preference
GROWTH = 4  # tensors may share numbers, so a file may hold more than its size, but not endlessly
ValueT = TypeVar("ValueT")


class CheckpointError(ValueError):
    """A file that can't be used. The message says what was found and what to do, without the file's folder."""


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict on the CPU and text metadata (empty unless safetensors).

    Takes safetensors, or a PyTorch file through weights-only loading. Raises CheckpointError for anything else, for
    files that are cut short, for pickles that ask for code, and for weights that are NaN or infinite.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(16)
    if head[8:9] == b"{":
        state, metadata = _read_safetensors(path)
    elif head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        state, metadata = _read_torch(path), {}
    else:
        start = f"it begins with {head[:8]!r}" if head else "it is empty"
        raise CheckpointError(
            f"{path.name} is neither a safetensors file nor a PyTorch state dict ({start}); "
            "download it again or convert it to safetensors"
        )
    check_growth(sum(value.nbytes for value in state.values()), path)
    _check_finite(state, path.name)
    return state, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path.name} is a damaged or truncated safetensors file ({error}); download or save it again"
        ) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    if is_program(path):
        raise CheckpointError(
            f"{path.name} is a TorchScript program, not a file of weights; use a safetensors version of the same model "
            "(open_clip and its collection on Hugging Face have one for each of OpenAI's CLIPs)"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        way_out = " or make one with `python dev.py convert`" if zipfile.is_zipfile(path) else ""
        raise CheckpointError(
            f"{path.name} holds a pickle that would run code when loaded, so it was refused "
            f"({_asked_for(error)}); use a safetensors version of this file{way_out}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path.name} is a damaged or truncated PyTorch file ({str(error).splitlines()[0]}); download it again"
        ) from error
    return _tensors(content, path.name)


def is_program(path: Path) -> bool:
    """A TorchScript archive, as OpenAI's own CLIP files."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:2] == ["constants.pkl"] for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False  # no archive, or a damaged one


def _asked_for(error: Exception) -> str:
    """The part of PyTorch's long message that names what the pickle wanted."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return lines[0][:160] if lines else str(error).splitlines()[0][:160]


def unwrapped(content: Any) -> Any:
    """What a file held: itself, or what stands under a usual wrapper key; wrappers may be nested, but not endlessly."""
    for _ in WRAPPERS:
        inside = content if isinstance(content, Mapping) else {}
        wrapped = [inside[key] for key in WRAPPERS if isinstance(inside.get(key), Mapping)]
        if not wrapped:
            break
        content = wrapped[0]
    return content


def _tensors(content: Any, name: str) -> dict[str, Tensor]:
    """The state dict inside what a file held."""
    content = unwrapped(content)
    if isinstance(content, Mapping):
        found = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
        for number, part in content.items():  # Asyrp's delta blocks: one state dict an attribute, "0", "1", ...
            if isinstance(part, Mapping) and str(number).isdecimal():
                found |= {f"{number}.{key}": value for key, value in part.items() if isinstance(value, Tensor)}
        if found:
            return found
    kind = f"a dictionary with the keys {list(content)[:5]}" if isinstance(content, Mapping) else type(content).__name__
    raise CheckpointError(f"{name} holds no state dict but {kind}; a file of weights by name is needed")


def check_growth(nbytes: int, path: Path) -> None:
    """Raises CheckpointError where few numbers in a file claim to be very many."""
    if nbytes > GROWTH * path.stat().st_size:
        raise CheckpointError(f"{path.name} is damaged or was tampered with: its weights are larger than the file")


def _check_finite(state: StateDict, name: str) -> None:
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value.float().sum() * 0):
            raise CheckpointError(f"{name} has NaN or infinite weights, first in {key}; the file is of no use")


def averaged_weights(state: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """Lightning files hold a network twice, as `model.` and `ema_model.`: the averaged one, and what stands beside."""
    if not any(key.startswith("ema_model.") for key in state):
        return dict(state)
    return {key.removeprefix("ema_model."): value for key, value in state.items() if not key.startswith("model.")}


def count(state: StateDict, template: str) -> int:
    """How many consecutive indices exist, from 0: `count(state, "input_blocks.{}.")`."""
    index = 0
    while any(key.startswith(template.format(index)) for key in state):
        index += 1
    return index
