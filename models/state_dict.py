"""Reading checkpoints without ever running what is in them, and small readings of their shapes."""

from __future__ import annotations

import json
import stat
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os.path import commonprefix
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .archive import ProgramError, Source, opened
from .foreign import foreign, foreign_beginning
from .memory import check_memory
from .messages import plain
from .pickled import DamagedError, Stored

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
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # beginnings of PyTorch's files
HEADER_LIMIT = 2 << 20  # bytes of a safetensors header; those of large models have 200 kB
TENSORS = 10_000  # of a file; large models have 3000
BLOCKS = 256  # of one kind in a network; the deepest have 64
KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
PIECE = 1 << 22  # numbers looked at together
UNREADABLE = (
    zipfile.BadZipFile,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    OSError,
    RuntimeError,
    OverflowError,
) + (struct.error,)
ValueT = TypeVar("ValueT")


class CheckpointError(ValueError):
    """A file that can't be used. The message says what was found and what to do, without the file's folder."""

    def __init__(self, message: str):
        super().__init__(plain(message))


class ForeignError(CheckpointError):
    """A file of another use, which belongs elsewhere."""


def read(path: str | Path, of_any_use: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict on the CPU and text metadata (empty unless safetensors).

    Takes safetensors and PyTorch's files, of which nothing is unpickled. Raises CheckpointError for anything else, for
    files of other uses (`foreign`; not if `of_any_use`, in safetensors), for files that are cut short or larger inside
    than outside, for pickles that ask for code, and for weights that are NaN or infinite.
    """
    path = Path(path)
    if _is_safetensors(path):
        state, metadata = _read_safetensors(path, of_any_use)
    else:
        state, metadata = _read_torch(path), {}
    check_growth(sum(value.nbytes for value in state.values()), path)
    _check_finite(state, path.name)
    return state, metadata


def outline(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `read` returns, with tensors on the meta device: names and shapes are read, and no weights.

    Raises CheckpointError for what these show to be of no use.
    """
    path = Path(path)
    if not _is_safetensors(path):
        with pytorch_file(path) as source:
            stored = _wanted(source, path)
            return {key: _empty(part.size, part.storage.dtype) for key, part in stored.items()}, {}
    header = _checked_header(path)
    metadata = header.pop("__metadata__", {})
    try:
        tensors = {key: _empty(entry["shape"], KINDS[entry["dtype"]]) for key, entry in header.items()}
        return tensors, {key: str(text) for key, text in metadata.items()}
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise CheckpointError(
            f"{path.name} is a damaged or truncated safetensors file (its shapes are none); download or save it again"
        ) from error


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _is_safetensors(path: Path) -> bool:
    """Of a file of weights; else it is PyTorch's. Raises CheckpointError for a file of neither kind."""
    head = beginning(path)
    if head[8:9] == b"{":
        return True
    if head[:4] == ZIP or head[:1] == PICKLE:
        return False
    if known := foreign_beginning(head):
        raise CheckpointError(f"{path.name} is {known}")
    start = f"it begins with {head[:8]!r}" if head else "it is empty"
    raise CheckpointError(
        f"{path.name} is neither a safetensors file nor a PyTorch state dict ({start}); "
        "download it again or convert it to safetensors"
    )


def check_use(keys: Iterable[str], name: str) -> None:
    """Raises ForeignError for files that belong elsewhere, with the place."""
    if known := foreign(keys):
        raise ForeignError(f"{name} is {known}")


def beginning(path: Path) -> bytes:
    """The first 16 bytes. Raises CheckpointError for what is no file: a pipe is waited for, a device never ends."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path.name} is no file but a folder, pipe or device; choose a file")
        with path.open("rb") as file:
            return file.read(16)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path.name} can't be read: {reason}") from error


# --- safetensors


def _read_safetensors(path: Path, of_any_use: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    _checked_header(path, of_any_use)
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, RuntimeError, ValueError, TypeError, LookupError, OSError) as error:
        check_memory(error)
        raise CheckpointError(
            f"{path.name} is a damaged or truncated safetensors file ({error}); download or save it again"
        ) from error


def _header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of itself, read with care before the library does."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > HEADER_LIMIT:
                raise CheckpointError(
                    f"{path.name} is a damaged or truncated safetensors file (its header of {length} bytes is longer "
                    "than any of weights); download or save it again"
                )
            return json.loads(file.read(length), object_pairs_hook=_once)
    except (ValueError, RecursionError, struct.error) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = "its header is nested too deep" if isinstance(error, RecursionError) else error
        raise CheckpointError(
            f"{path.name} is a damaged or truncated safetensors file ({reason}); download or save it again"
        ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header says something twice")
    return found


def _checked_header(path: Path, of_any_use: bool = False) -> dict[str, Any]:
    """Of a file of weights that can be read here."""
    header, name = _header(path), path.name
    _check_number(len(header), name)
    if not of_any_use:
        check_use(header, name)
    for key, entry in header.items():
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        if key != "__metadata__" and (not isinstance(kind, str) or kind not in KINDS):
            raise CheckpointError(f"{name} holds {key} as {kind}, which can't be weights; {', '.join(KINDS)} can")
    return header


# --- PyTorch's files


@contextmanager
def pytorch_file(path: Path) -> Iterator[Source]:
    """An open file; what is wrong with it becomes a CheckpointError."""
    try:
        with opened(path) as source:
            yield source
    except CheckpointError:
        raise
    except ProgramError as error:
        raise CheckpointError(
            f"{path.name} is a TorchScript program, not a file of weights; use a safetensors version of the same model "
            "(open_clip and its collection on Hugging Face have one for each of OpenAI's CLIPs)"
        ) from error
    except DamagedError as error:
        raise CheckpointError(f"{path.name} is damaged or was tampered with: {error}") from error
    except UNREADABLE as error:
        check_memory(error)
        told = isinstance(error, zipfile.BadZipFile | ValueError | OSError | EOFError)
        reason = error if told else "its pickle makes no sense"
        raise CheckpointError(
            f"{path.name} is a damaged or truncated PyTorch file ({reason}); download it again"
        ) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    with pytorch_file(path) as source:
        return source.tensors(_wanted(source, path))


def _wanted(source: Source, path: Path) -> dict[str, Stored]:
    """The state dict of a PyTorch file, not yet read. Raises CheckpointError for what can't be used."""
    content = source.content()
    within = unwrapped(content)
    check_use(filter(_is_text, within if isinstance(within, Mapping) else ()), path.name)
    if source.asked:
        raise CheckpointError(
            f"{path.name} holds a pickle that would run code when loaded, so it was refused (it asks for "
            f"{', '.join(source.asked[:3])}); Convert Guidance File makes a safetensors file of it, and runs nothing"
        )
    stored = _stored(within, path.name)
    check_growth(sum(part.nbytes for part in stored.values()), path)
    return stored


def _is_text(key: Any) -> bool:
    return isinstance(key, str)


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


def _stored(content: Any, name: str) -> dict[str, Stored]:
    """The tensors of an unwrapped state dict."""
    if isinstance(content, tuple) and len(content) == 2:  # mean and deviation, beside Karlo's prior
        content = {str(number): value for number, value in enumerate(content)}
    if isinstance(content, Mapping):
        found = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Stored)}
        for number, part in content.items():  # Asyrp's delta blocks: one state dict an attribute, "0", "1", ...
            if isinstance(part, Mapping) and str(number).isdecimal():
                found |= {f"{number}.{key}": value for key, value in part.items() if isinstance(value, Stored)}
        _check_number(len(found), name)
        if found:
            return found
    kind = f"a dictionary with the keys {list(content)[:5]}" if isinstance(content, Mapping) else type(content).__name__
    raise CheckpointError(f"{name} holds no state dict but {kind}; a file of weights by name is needed")


def _check_number(tensors: int, name: str) -> None:
    if tensors > TENSORS:
        raise CheckpointError(f"{name} holds {tensors} tensors, and {TENSORS} are the most that can be read")


def check_growth(nbytes: int, path: Path) -> None:
    """Raises CheckpointError where few numbers in a file claim to be very many."""
    if nbytes > GROWTH * path.stat().st_size:
        raise CheckpointError(f"{path.name} is damaged or was tampered with: its weights are larger than the file")


def _check_finite(state: StateDict, name: str) -> None:
    for key, value in state.items():
        if value.is_floating_point() and value.numel() and not all(map(_is_finite, value.flatten().split(PIECE))):
            raise CheckpointError(f"{name} has NaN or infinite weights, first in {key}; the file is of no use")


def _is_finite(numbers: Tensor) -> bool:
    """In float32, which networks are loaded in: beyond it float64 has numbers that become infinite there."""
    return bool(torch.stack(numbers.float().aminmax()).isfinite().all())


def statistics(state: StateDict, keys: tuple[str, str], width: int, name: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation [width] of codes, in float32, under two keys. Raises CheckpointError for what is neither."""
    for key in keys:
        found = state.get(key, torch.empty(0))
        if found.numel() != width or not found.is_floating_point():
            came = f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}" if key in state else "nothing"
            raise CheckpointError(f"{name} has {came} as {key}; {width} floating-point numbers are needed")
    mean, deviation = (state[key].flatten().float().clone() for key in keys)
    if not bool((deviation > 0).all()):
        raise CheckpointError(f"{name} has numbers in {keys[1]} that are not above 0, and a deviation is")
    return mean, deviation


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
    """How many consecutive indices exist, from 0: `count(state, "input_blocks.{}.")`.

    Raises CheckpointError for more than any network has, before something is made of each.
    """
    before = template.partition("{}")[0]
    found = {key.removeprefix(before).partition(".")[0] for key in state if key.startswith(before)}
    index = 0
    while str(index) in found:
        index += 1
    if index > BLOCKS:
        raise CheckpointError(f"has {index} of {template}, and {BLOCKS} are the most that can be read")
    return index
