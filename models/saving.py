"""Files written whole or not at all, and under names that nobody else takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from .state_dict import CheckpointError

SHARED = 0o666  # before the user's umask, as for every new file; the library's own writer would leave 0600


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
        apart = {
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()
        }
        content = save(apart, metadata)
        with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, SHARED), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        rename(part, path)
    except (OSError, SafetensorError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path.name} can't be written: {reason}") from error
    finally:
        with suppress(OSError):
            part.unlink()
