"""`python dev.py convert FILE [OUT]`: PyTorch files whose pickles ask for code -> safetensors; none of it runs.

Lightning's checkpoints name classes of their own beside the weights, which weights-only loading refuses. Here only
tensors, containers, numbers and texts are read; whatever else a file names is neither imported nor called.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .pickled import DamagedError, Machine, Name, Storage, Stored
from .state_dict import CheckpointError, averaged_weights, check_growth, is_program, unwrapped

BESIDE = ("conds_mean", "conds_std", "x_T")  # of a diffusion autoencoder, where they stand outside the state dict
PICKLE_LIMIT = 16 << 20  # bytes of the pickle, which holds no weights; large models have 1 MB
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
UNREADABLE = (zipfile.BadZipFile, ValueError, LookupError, TypeError, EOFError, OSError, RuntimeError, OverflowError)


# --- the archive


class Archive:
    """A zip file as `torch.save` writes it: one folder, `data.pkl`, one entry for each storage, nothing packed."""

    def __init__(self, file: zipfile.ZipFile, size: int):
        self.file = file
        self.entries = {entry.filename: entry for entry in file.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in file.infolist()):
            raise DamagedError("its entries are packed or encrypted, which PyTorch doesn't do")
        if sum(max(entry.file_size, entry.compress_size) for entry in file.infolist()) > size:
            raise DamagedError("its entries are larger than the file")
        folders = [name.removesuffix("/data.pkl") for name in self.entries if name.split("/")[1:] == ["data.pkl"]]
        if len(folders) != 1 or len(self.entries) != len(file.infolist()):
            raise DamagedError("it is no archive of PyTorch")
        self.folder = folders[0]
        order = f"{self.folder}/byteorder"
        if order in self.entries and self.bytes_of("byteorder") != b"little":
            raise DamagedError("its numbers are not little-endian")

    def bytes_of(self, name: str) -> bytes:
        entry = self.entries[f"{self.folder}/{name}"]
        content = self.file.read(entry)
        if len(content) != entry.file_size:
            raise DamagedError(f"{name[:60]!a} is cut short")
        return content

    def content(self) -> Any:
        """What the pickle describes."""
        if self.entries[f"{self.folder}/data.pkl"].file_size > PICKLE_LIMIT:
            raise DamagedError("its pickle is too large for one of a file of weights")
        return Machine(self.storage).run(self.bytes_of("data.pkl"))

    def storage(self, identity: Any) -> Storage:
        """Of a persistent id: ("storage", type, key, device, numel), as large as its entry."""
        if type(identity) is not tuple or len(identity) != 5:
            raise DamagedError("something lies outside the pickle that is no storage")
        word, kind, key, _, numel = identity
        dtype = DTYPES.get(kind.name) if isinstance(kind, Name) and kind.module == "torch" else None
        if word != "storage" or dtype is None or type(key) is not str or type(numel) is not int or numel < 0:
            raise DamagedError("something lies outside the pickle that is no storage of a known type")
        entry = self.entries.get(f"{self.folder}/data/{key}")
        if (0 if entry is None else entry.file_size) != numel * dtype.itemsize:
            raise DamagedError(f"storage {key[:40]!a} has not the size that the pickle says")
        return Storage(key, dtype, numel)

    def tensors(self, stored: dict[str, Stored]) -> dict[str, Tensor]:
        """The tensors themselves, each with memory of its own."""
        sharing: dict[Storage, list[str]] = {}
        for key, part in stored.items():
            sharing.setdefault(part.storage, []).append(key)
        found: dict[str, Tensor] = {}
        for storage, keys in sharing.items():
            numbers = self._numbers(storage)
            for key in keys:
                part = stored[key]
                view = numbers.as_strided(part.size, part.stride, part.offset if part.numel else 0)
                found[key] = view.clone(memory_format=torch.contiguous_format)
        return {key: found[key] for key in stored}

    def _numbers(self, storage: Storage) -> Tensor:
        if not storage.numel:
            return torch.empty(0, dtype=storage.dtype)
        content = bytearray(self.bytes_of(f"data/{storage.key}"))
        if storage.dtype == torch.bool:
            return torch.frombuffer(content, dtype=torch.uint8) != 0
        return torch.frombuffer(content, dtype=storage.dtype)


# --- the command


@dataclass(frozen=True)
class Kept:
    """The tensors of a file that are worth keeping, and what is said of the rest."""

    tensors: dict[str, Tensor]
    left_out: list[str]


def read_untrusted(path: Path) -> Kept:
    """The weights of a zipped PyTorch file, whatever its pickle asks for. Raises CheckpointError."""
    _check_kind(path)
    try:
        with zipfile.ZipFile(path) as file:
            archive = Archive(file, path.stat().st_size)
            stored, left_out = chosen(archive.content(), path.name)
            check_growth(sum(part.nbytes for part in stored.values()), path)
            return Kept(archive.tensors(stored), left_out)
    except CheckpointError:
        raise
    except DamagedError as error:
        raise CheckpointError(f"{path.name} is damaged or was tampered with: {error}") from error
    except UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(
            f"{path.name} is a damaged or truncated PyTorch file ({reason}); download it again"
        ) from error


def _check_kind(path: Path) -> None:
    """Raises CheckpointError for everything but a zipped PyTorch file."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path.name} can't be read: {error.strerror}") from error
    if head[8:9] == b"{":
        raise CheckpointError(f"{path.name} is a safetensors file already; there is nothing to convert")
    if head[:1] == b"\x80":
        raise CheckpointError(
            f"{path.name} is a bare pickle or a PyTorch file of before version 1.6, which is not converted; look for "
            "another version of it"
        )
    if head[:4] != b"PK\x03\x04":
        raise CheckpointError(f"{path.name} is no PyTorch file (it begins with {head[:8]!r}); download it again")
    if is_program(path):
        raise CheckpointError(
            f"{path.name} is a TorchScript program, which is not converted; use a safetensors version of the same model"
        )


def chosen(content: Any, name: str) -> tuple[dict[str, Stored], list[str]]:
    """The state dict inside what a file held, averaged weights before others, and names of what is left out."""
    state = unwrapped(content)
    if type(state) is not dict:
        raise CheckpointError(f"{name} holds no weights by name")
    around = content if content is not state else {}
    found = {key: value for key, value in state.items() if isinstance(value, Stored)}
    if not found:
        keys = ", ".join(ascii(key)[:60] for key in list(state)[:5])
        raise CheckpointError(f"{name} holds no weights by name" + (f"; its keys are {keys}" if keys else ""))
    kept = averaged_weights(found)
    left_out = ["model. (ema_model. is the average)"] * (len(kept) < len(found))
    for key in BESIDE:
        if key not in kept and isinstance(around.get(key), Stored):
            kept[key] = around[key]
    left_out += [key for key in around if unwrapped(around[key]) is not state and key not in kept]
    others = len(state) - len(found)
    left_out += [f"{others} entries that are no tensors"] * bool(others)
    return kept, left_out


def convert(source: Path, target: Path) -> str:
    """Writes the weights of `source` to `target` and says what they are. Raises CheckpointError; overwrites nothing."""
    kept = read_untrusted(source)
    _check_free(target)
    part = target.with_name(f"{target.name}.part")
    _check_free(part)
    metadata = {"format": "pt", "converted_from": ascii(source.name)[1:-1]}
    try:
        save_file(kept.tensors, part, metadata)
        _check_free(target)
        part.rename(target)
    except (OSError, SafetensorError, UnicodeError) as error:
        raise CheckpointError(f"{target.name} can't be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return _report(kept, target)


def _check_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise CheckpointError(f"{path} exists already and is not overwritten; name another file or move it away")


def _report(kept: Kept, target: Path) -> str:
    """Names out of the file are printed in plain ASCII: a terminal obeys control characters."""
    numbers = sum(tensor.numel() for tensor in kept.tensors.values())
    lines = [f"{target}: {len(kept.tensors)} tensors, {numbers:,} numbers"]
    parts: dict[str, int] = {}
    for key in kept.tensors:
        part = key.split(".")[0]
        parts[part] = parts.get(part, 0) + 1
    lines.append("kept: " + ", ".join(f"{ascii(part)[1:-1][:60]} ({count})" for part, count in parts.items()))
    if kept.left_out:
        lines.append("left out: " + ", ".join(ascii(name)[1:-1][:60] for name in kept.left_out))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python dev.py convert", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("file", type=Path, help="a PyTorch file: .ckpt, .pt, .pth")
    parser.add_argument("out", type=Path, nargs="?", help="default: FILE with .safetensors at the end")
    given = parser.parse_args(arguments)
    try:
        print(convert(given.file, given.out or given.file.with_suffix(".safetensors")))  # noqa: T201
    except CheckpointError as error:
        sys.exit(f"convert: {error}")


if __name__ == "__main__":
    main()
