"""Reading checkpoints without ever running what is in them, and small readings of their shapes."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from os.path import commonprefix
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

StateDict = Mapping[str, Tensor]
WRAPPERS = (  # in order of preference: averaged weights are what a model is sampled with
    ("params_ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema")
    + ("state_dict", "model_state_dict", "model", "params", "net", "module")
)
AVERAGED = ("ema_model.", "model_ema.", "params_ema.")  # before keys of a file that holds a network twice ...
TRAINED = ("model.", "params.")  # ... and before those of the copy that was trained
COUNTERS = ("decay", "num_updates", "n_averaged", "step", "initted")  # of averaging, beside the weights
CHAIN = ("betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_", "logvar", "lvlb_weights")  # of the schedule
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
        wrapped = [inside[key] for key in WRAPPERS if _holds_more_than_numbers(inside.get(key))]
        if not wrapped:
            break
        content = wrapped[0]
    return content


def _holds_more_than_numbers(part: Any) -> bool:
    return isinstance(part, Mapping) and any(not isinstance(value, (int, float, str)) for value in part.values())


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
    """Of a file that holds a network twice, as `model.` and `ema_model.`: the averaged copy, and what stands beside.

    Latent diffusion's code averages under names without dots, `model_ema.` and `input_blocks00weight`.
    """
    averaged = next((prefix for prefix in AVERAGED if any(key.startswith(prefix) for key in state)), None)
    if averaged is None:
        return dict(state)
    named = {averaged + key.removeprefix("model.").replace(".", ""): key for key in state if key.startswith("model.")}
    return {
        named.get(key, key).removeprefix(averaged): value for key, value in state.items() if not key.startswith(TRAINED)
    }


def without_bookkeeping(state: StateDict) -> dict[str, Tensor]:
    """Without counters of averaging, and without a noise schedule's tables, which some training code stores."""
    return {
        key: value
        for key, value in state.items()
        if not (key.rpartition(".")[2] in COUNTERS and value.numel() == 1)
        and not ("." not in key and value.ndim <= 1 and key.startswith(CHAIN))
    }


def bare(state: StateDict) -> dict[str, Tensor]:
    """Without what a training loop or the host wrote before every key: `module.`, `net.`, `model.diffusion_model.`"""
    prefix = commonprefix(list(state))
    prefix = prefix[: prefix.rfind(".") + 1]
    return {key.removeprefix(prefix): value for key, value in state.items()}


def count(state: StateDict, template: str) -> int:
    """How many consecutive indices exist, from 0: `count(state, "input_blocks.{}.")`."""
    index = 0
    while any(key.startswith(template.format(index)) for key in state):
        index += 1
    return index
