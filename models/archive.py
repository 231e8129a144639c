"""PyTorch's files as they lie on the disk: a description of what is in them, and the numbers of their tensors.

Every size is compared with the file before anything is made of it, and no unpickler runs.
"""

from __future__ import annotations

import io
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .pickled import DamagedError, Machine, Name, Storage, Stored

PICKLE_LIMIT = 4 << 20  # bytes of the pickles, which hold no weights; those of large models have 1 MB
DIRECTORY_LIMIT = 2 << 20  # bytes of a zip file's table of contents; large models have 100 kB
PIECE = 1 << 20  # bytes read at once
LEGACY = 0x1950A86A20F9469CFC6C, 1001  # the numbers with which files of before version 1.6 begin
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
# what files of weights ask for: it is known what it stands for, or that nothing of it is needed
KNOWN = {("torch", kind) for kind in DTYPES} | {
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.nn.parameter", "Parameter"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("collections", "OrderedDict"),
    ("collections", "Counter"),
    ("_codecs", "encode"),
    *(("torch", str(dtype).removeprefix("torch.")) for dtype in DTYPES.values()),
    *((module, "set") for module in ("builtins", "__builtin__")),
}


class ProgramError(DamagedError):
    """A TorchScript archive, as OpenAI's own CLIP files."""


class Source(ABC):
    """A file with its description; `asked` are the names in it that are of no use to weights, so would be code."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @abstractmethod
    def content(self) -> Any:
        """What the pickle describes: containers, numbers, texts, and `Stored` for tensors."""

    @abstractmethod
    def fill(self, storage: Storage, place: memoryview) -> None:
        """Reads the bytes of a storage."""

    def described(self, machine: Machine, pickled: BinaryIO) -> Any:
        content = machine.run(pickled)
        self.asked += [f"{name.module}.{name.name}" for name in machine.names if (name.module, name.name) not in KNOWN]
        return content

    def tensors(self, stored: Mapping[str, Stored]) -> dict[str, Tensor]:
        """The tensors themselves; those of one storage share its numbers."""
        numbers = {storage: self._numbers(storage) for storage in {part.storage: None for part in stored.values()}}
        return {
            key: numbers[part.storage].as_strided(part.size, part.stride, part.offset if part.numel else 0)
            for key, part in stored.items()
        }

    def _numbers(self, storage: Storage) -> Tensor:
        content = torch.empty(storage.nbytes, dtype=torch.uint8)
        if storage.nbytes:
            self.fill(storage, content.numpy().data)
        return content != 0 if storage.dtype == torch.bool else content.view(storage.dtype)


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """A PyTorch file of either kind. Raises DamagedError, and what Python's own readers raise of damaged files."""
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        if file.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(_Bounded(file)) as archive:
                yield Zipped(archive, size)
        else:
            file.seek(0)
            yield Streamed(io.BufferedReader(file), size)


def identified(identity: Any, lengths: tuple[int, ...]) -> Storage:
    """Of a persistent id: ("storage", type, key, device, numel) and, before version 1.6, a view that is None."""
    if type(identity) is not tuple or len(identity) not in lengths:
        raise DamagedError("something lies outside the pickle that is no storage")
    word, kind, key, _, numel, *view = identity
    dtype = DTYPES.get(kind.name) if isinstance(kind, Name) and kind.module == "torch" else None
    if word != "storage" or dtype is None or type(key) is not str or type(numel) is not int or numel < 0:
        raise DamagedError("something lies outside the pickle that is no storage of a known type")
    if view not in ([], [None]):
        raise DamagedError("a storage is a part of another, which files of weights don't need")
    return Storage(key, dtype, numel)


# --- since version 1.6


class _Bounded(io.BufferedReader):
    """A file of which nothing long is read at once: `zipfile` takes a whole table of contents, however long."""

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(
            min(DIRECTORY_LIMIT + 1, size) if size is not None and size >= 0 else DIRECTORY_LIMIT + 1
        )
        if len(content) > DIRECTORY_LIMIT:
            raise DamagedError("its table of contents is too large for one of a file of weights")
        return content


class Zipped(Source):
    """A zip file: one folder, `data.pkl`, one entry for each storage, nothing packed."""

    def __init__(self, file: zipfile.ZipFile, size: int):
        super().__init__()
        self.file, found = file, file.infolist()
        self.entries = {entry.filename: entry for entry in found}
        if any(name.split("/")[1:2] == ["constants.pkl"] for name in self.entries):
            raise ProgramError
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in found):
            raise DamagedError("its entries are packed or encrypted, which PyTorch doesn't do")
        if sum(max(entry.file_size, entry.compress_size) for entry in found) > size:
            raise DamagedError("its entries are larger than the file")
        folders = [name.removesuffix("/data.pkl") for name in self.entries if name.split("/")[1:] == ["data.pkl"]]
        if len(folders) != 1 or len(self.entries) != len(found):
            raise DamagedError("it is no archive of PyTorch")
        self.folder = folders[0]
        if f"{self.folder}/byteorder" in self.entries and self._short("byteorder", 6) != b"little":
            raise DamagedError("its numbers are not little-endian")

    def _short(self, name: str, limit: int) -> bytes:
        entry = self.entries[f"{self.folder}/{name}"]
        if entry.file_size > limit:
            raise DamagedError(f"its {name} is too large for one of a file of weights")
        content = self.file.read(entry)
        if len(content) != entry.file_size:
            raise DamagedError(f"{name} is cut short")
        return content

    def content(self) -> Any:
        return self.described(Machine(self._storage), io.BytesIO(self._short("data.pkl", PICKLE_LIMIT)))

    def _storage(self, identity: Any) -> Storage:
        """As large as its entry."""
        storage = identified(identity, (5,))
        entry = self.entries.get(f"{self.folder}/data/{storage.key}")
        if (0 if entry is None else entry.file_size) != storage.nbytes:
            raise DamagedError(f"storage {storage.key!a} has not the size that the pickle says")
        return storage

    def fill(self, storage: Storage, place: memoryview) -> None:
        with self.file.open(self.entries[f"{self.folder}/data/{storage.key}"]) as file:
            filled(file, place)


# --- before version 1.6


class Streamed(Source):
    """Five pickles, one behind the other, and then the count and the numbers of each storage."""

    def __init__(self, file: BinaryIO, size: int):
        super().__init__()
        self.file, self.size = file, size
        self.places: dict[str, int] = {}
        self.storages: dict[str, Storage] = {}

    def content(self) -> Any:
        pickled = io.BytesIO(self.file.read(PICKLE_LIMIT))
        try:
            for number in LEGACY:
                found = self.described(Machine(self._storage), pickled)
                if type(found) is not int or found != number:
                    raise DamagedError("it is a bare pickle, not a file of PyTorch")
            self.described(Machine(self._storage), pickled)  # of the machine that wrote it
            content = self.described(Machine(self._storage), pickled)
            keys = self.described(Machine(self._storage), pickled)
        except ValueError as error:
            if pickled.tell() >= PICKLE_LIMIT and not isinstance(error, DamagedError):
                raise DamagedError("its pickle is too large for one of a file of weights") from error
            raise
        self._locate(keys, pickled.tell())
        return content

    def _storage(self, identity: Any) -> Storage:
        storage = identified(identity, (5, 6))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise DamagedError(f"storage {storage.key!a} has two sizes")
        return storage

    def _locate(self, keys: Any, place: int) -> None:
        """Where each storage lies, all within the file."""
        if type(keys) is not list or set(map(type, keys)) - {str} or set(keys) != set(self.storages):
            raise DamagedError("its list of storages is not that of its tensors")
        for key in keys:
            storage = self.storages[key]
            self.file.seek(place)
            if self.file.read(8) != struct.pack("<q", storage.numel) or place + 8 + storage.nbytes > self.size:
                raise DamagedError(f"storage {key!a} has not the size that the pickle says")
            self.places[key] = place + 8
            place += 8 + storage.nbytes

    def fill(self, storage: Storage, place: memoryview) -> None:
        self.file.seek(self.places[storage.key])
        filled(self.file, place)


def filled(file: Any, place: memoryview) -> None:
    """Reads exactly so many bytes, a piece at a time."""
    for start in range(0, len(place), PIECE):
        piece = place[start : start + PIECE]
        content = file.read(len(piece))
        if len(content) != len(piece):
            raise DamagedError("its numbers are cut short")
        piece[:] = content
