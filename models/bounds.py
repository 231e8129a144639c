"""Which numbers a configuration may have, seen before anything is made of them."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

LARGEST = 1 << 20  # of a width, a size, a number of classes
LONGEST, WORDS = 64, 1 << 17  # of a list of numbers, and of one of words
COUNTS = ("num_res_blocks", "encoder_res_blocks", "layers", "text_layers", "blocks")  # so many blocks are built


def check_config(config: Any, keys: int) -> None:
    """Raises ValueError for values of another kind, out of range, or that mean more blocks than a file has keys."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        if not _fits(value, hints[field.name]):
            shown = value if isinstance(value, int | float | str) else "nothing" if value is None else "something else"
            raise ValueError(f"its {field.name} is {shown}, which no network has")
        if is_dataclass(value):
            check_config(value, keys)
    if _blocks(config) > keys:
        raise ValueError(f"it means {_blocks(config)} blocks or more, and the file has {keys} keys")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind that a field is declared as, and in range."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if kind is tuple:
        many = inner[1:] == (...,)
        right = isinstance(value, tuple) and (
            len(value) <= (WORDS if inner[0] is str else LONGEST) if many else len(value) == len(inner)
        )
        return right and all(map(_is_part, value, [inner[0]] * len(value)))
    if hint is int:
        return type(value) is int and 1 <= value <= LARGEST
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= LARGEST
    return type(value) is hint or (hint is type(None) and value is None) or (is_dataclass(hint) and is_dataclass(value))


def _is_part(value: Any, hint: Any) -> bool:
    """A number of a list may be 0: a level, or a layer without blocks."""
    return value == 0 and type(value) is hint or _fits(value, hint)


def _blocks(config: Any) -> int:
    """How many blocks it means at least: so many a level, or the sum of a list."""
    values = [getattr(config, name) for name in COUNTS if hasattr(config, name)]
    counts = [sum(value) if isinstance(value, tuple) else value for value in values]
    levels = getattr(config, "channel_mult", ())
    return max(counts, default=0) * max(1, len(levels))
