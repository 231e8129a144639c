"""Files written whole or not at all, and under names that nobody else takes."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from .state_dict import CheckpointError

SHARED = 0o666  # before the user's umask, as for every new file; the library's own writer would leave 0600
METADATA = "__metadata__"  # key of a header's texts
KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def replace_file(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """A process killed here leaves the old file whole. Tensors may share their numbers. Raises CheckpointError."""
    _write(tensors, path, metadata, os.replace)


def new_file(tensors: Mapping[str, Tensor], paths: Iterable[Path], metadata: dict[str, str]) -> Path:
    """Writes to the first path that nobody has taken, and returns it; nothing is overwritten. Raises CheckpointError.

    Of processes that write at once, each gets a path of its own.
    """
    for path in paths:
        if os.path.lexists(path):
            continue
        try:
            _write(tensors, path, metadata, _take)
        except _TakenError:  # since a moment
            continue
        return path
    raise CheckpointError("the name is taken already, and nothing is overwritten; choose another")


class _TakenError(Exception):
    """Somebody else has the name."""


def _take(written: Path, path: Path) -> None:
    """Gives a file its name, if it is free."""
    try:
        try:
            os.link(written, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links: the name is taken first
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, SHARED))
            os.replace(written, path)
    except FileExistsError as error:
        raise _TakenError from error


def _write(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str], rename: Callable[[Path, Path], None]
) -> None:
    part = path.with_name(f".{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, SHARED), "wb") as file:
            for piece in _pieces(tensors, metadata):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        rename(part, path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path.name} can't be written: {reason}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def _pieces(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Iterator[Any]:
    """A safetensors file in pieces (huggingface/safetensors, "Format"): the length of a header, the header, each
    tensor's numbers. The library, before 0.8, holds all of them twice.

    Raises ValueError for what the format doesn't know.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))  # so each is aligned
    header: dict[str, Any] = {METADATA: metadata}
    end = 0
    for key, value in ordered:
        if value.dtype not in KINDS or key == METADATA:
            raise ValueError(f"{key} holds {value.dtype}, and a safetensors file can't")
        begin, end = end, end + value.nbytes
        header[key] = {"dtype": KINDS[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    said = json.dumps(header, separators=(",", ":")).encode()
    said += b" " * (-len(said) % 8)
    yield struct.pack("<Q", len(said))
    yield said
    for _, value in ordered:
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
