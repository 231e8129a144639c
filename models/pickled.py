"""A pickle read as a description: tensors, containers, numbers and texts. Nothing in it is imported, made or called."""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

OPCODES = 400_000  # of a pickle; that of a large model with its optimiser has 100,000
AXES = 16
PLACES = 1 << 20  # numbers as keys: of an optimiser's parameters, of parts of a file
EXTENT = 1 << 40  # of one axis, stride or place


class Inert:
    """Stands for every object that is none of ours. There is one, and nothing that a pickle says changes it."""

    __slots__ = ()


INERT = Inert()


@dataclass(frozen=True)
class Name:
    """What a file wants imported. It is compared with the few names known here, and that is all."""

    module: str
    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers that lie in the archive, not yet read."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Stored:
    """A tensor within a storage, not yet read."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.size)

    @property
    def nbytes(self) -> int:
        return self.numel * self.storage.dtype.itemsize


class DamagedError(ValueError):
    """A pickle or an archive that is not what PyTorch writes."""


def described(arguments: Any) -> Stored:
    """What `_rebuild_tensor_v2`'s arguments describe, hooks ignored. Raises DamagedError outside its storage."""
    if type(arguments) is not tuple or len(arguments) < 4:
        raise DamagedError("a tensor has no storage, place, size and stride")
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, Storage) or type(size) is not tuple or type(stride) is not tuple:
        raise DamagedError("a tensor is described in an unknown way")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > AXES or not all(_is_count(number) for number in numbers):
        raise DamagedError("a tensor has an impossible size, stride or place")
    tensor = Stored(storage, offset, size, stride)
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True))
    if tensor.numel and last >= storage.numel:
        raise DamagedError("a tensor reaches outside its storage")
    return tensor


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < EXTENT


def made(callee: Any, arguments: Any) -> Any:
    """What a call would give: a tensor, an empty dictionary, or nothing of use. Nothing is called."""
    known = (callee.module, callee.name) if isinstance(callee, Name) else None
    if known in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
        return described(arguments)
    if known == ("torch._utils", "_rebuild_parameter"):
        return arguments[0] if type(arguments) is tuple and arguments else INERT
    if known == ("collections", "OrderedDict"):
        return {}
    return INERT


class Machine:
    """Runs the opcodes of a pickle on a stack of plain values. No attribute of any value is ever looked up by name.

    Sets become lists and only texts and short numbers are kept as keys, so nothing else is hashed or compared.
    """

    def __init__(self, storage_of: Callable[[Any], Storage]):
        self.storage_of = storage_of  # of a persistent id
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}
        self.names: dict[Name, None] = {}  # all that the pickle wants imported

    def run(self, pickled: BinaryIO) -> Any:
        """What one pickle describes; the file stands behind it then."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
            if count == OPCODES:
                raise DamagedError("its pickle is too long for one of a file of weights")
            self.step(opcode.name, argument)
        return self.stack[-1]

    def step(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                self.stack.append(self.memo[argument])
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "UNICODE":
                self.stack.append(argument)
            case "BININT" | "BININT1" | "BININT2" | "INT" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                self.stack.append(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                self.stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                self.stack.append(argument)
            case "NONE":
                self.stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                self.stack.append(opcode == "NEWTRUE")
            case "MARK":
                self.outer.append(self.stack)
                self.stack = []
            case "POP_MARK":
                self._marked()
            case "POP":
                if self.stack:
                    self.stack.pop()
                else:
                    self._marked()
            case "DUP":
                self.stack.append(self.stack[-1])
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self._taken(int(opcode[-1]))))
            case "TUPLE" | "FROZENSET":
                values = self._marked()
                self.stack.append(tuple(values))
            case "EMPTY_LIST" | "EMPTY_SET":
                self.stack.append([])
            case "LIST":
                values = self._marked()
                self.stack.append(values)
            case "APPEND":
                self._extend(self._taken(1))
            case "APPENDS" | "ADDITEMS":
                self._extend(self._marked())
            case "EMPTY_DICT":
                self.stack.append({})
            case "DICT":
                values = self._marked()
                self.stack.append({})
                self._fill(values)
            case "SETITEM":
                self._fill(self._taken(2))
            case "SETITEMS":
                self._fill(self._marked())
            case "GLOBAL":
                self._name(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                module, name = self._taken(2)
                if not type(module) is type(name) is str:
                    raise DamagedError("its pickle wants something imported whose name is no text")
                self._name(module, name)
            case "REDUCE" | "NEWOBJ":
                self.stack.append(made(*self._taken(2)))
            case "NEWOBJ_EX":
                self._taken(3)
                self.stack.append(INERT)
            case "OBJ" | "INST":
                self._marked()
                if opcode == "INST":
                    self._name(*argument.split(" ", 1))
                    self.stack.pop()
                self.stack.append(INERT)
            case "BUILD":
                self._taken(1)
            case "BINPERSID":
                self.stack.append(self.storage_of(self.stack.pop()))
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                raise DamagedError(f"its pickle uses {opcode}, which no file of weights needs")

    def _name(self, module: str, name: str) -> None:
        wanted = Name(module, name)
        self.names[wanted] = None
        self.stack.append(wanted)

    def _taken(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise DamagedError("its pickle takes more than there is")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def _marked(self) -> list[Any]:
        values, self.stack = self.stack, self.outer.pop()
        return values

    def _extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(values)

    def _fill(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is dict:
            for key, value in zip(values[::2], values[1::2], strict=True):
                if type(key) is str or (type(key) is int and 0 <= key < PLACES):
                    self.stack[-1][key] = value
