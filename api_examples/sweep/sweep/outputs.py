"""What a host made of a prompt: its files, and numbers for the table."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from .workflow import Prompt, title

Value = float | int | str
NUMBER_LINE = re.compile(r"\s*([^:=\n]*?\w)\s*[:=]\s*([-+]?\d+\.?\d*(?:[eE][-+]?\d+)?)\s*%?\s*")
LONGEST = 200  # characters of a text that still makes a column; the record has all of it
PNG = b"\x89PNG\r\n\x1a\n"


def files(outputs: Mapping[str, Any]) -> list[dict[str, str]]:
    """Every file of a history's outputs, saved ones before previews, as /view wants them."""
    lists = (values for node in sorted(outputs, key=_order) for values in outputs[node].values())
    found = [entry for values in lists if isinstance(values, list) for entry in values if _is_file(entry)]
    return sorted(found, key=lambda entry: entry["type"] != "output")


def _order(node: str) -> tuple[int, str]:
    return (int(node) if node.isdigit() else 1 << 30, node)


def _is_file(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("filename", "type"))


def scores(prompt: Prompt, outputs: Mapping[str, Any]) -> dict[str, Value]:
    """Columns of a history's outputs: numbers, JSON, `name: number` lines and short texts of its nodes.

    A list of numbers gives its mean. A list of rows, such as a report over steps, gives its last row. Of a column's way
    through JSON only the last name stays, where that is enough to tell it.
    """
    found: dict[str, Value] = {}
    titles = [title(prompt, node) for node in outputs]
    for node in sorted(outputs, key=_order):
        name = title(prompt, node) if titles.count(title(prompt, node)) == 1 else f"{title(prompt, node)} {node}"
        for key, values in outputs[node].items():
            values = values if isinstance(values, list | tuple) else [values]
            kept = [_read(value) for value in values if not isinstance(value, bool) and not _is_file(value)]
            if kept:
                columns = list(_columns((), kept[0] if len(kept) == 1 else kept))
                found.update(_named(name if key == "text" else f"{name}.{key}", columns))
    return found


def _read(value: Any) -> Any:
    """A text that means a number, JSON or lines of numbers, as that."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        pass
    lines = [NUMBER_LINE.fullmatch(line) for line in value.strip().splitlines()]
    if lines and all(lines):
        return {line[1]: float(line[2]) for line in lines if line}
    return value


def _columns(way: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Value]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _columns((*way, key), part)
    elif isinstance(value, list) and value:
        if all(isinstance(part, int | float) for part in value):
            yield way, sum(value) / len(value)
        else:
            yield from _columns(way, value[-1])
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield way, value
    elif isinstance(value, str) and 0 < len(value.strip()) <= LONGEST:
        yield way, value.strip()


def _named(name: str, columns: list[tuple[tuple[str, ...], Value]]) -> dict[str, Value]:
    last = [way[-1:] for way, _ in columns]
    return {".".join((name, *(way[-1:] if last.count(way[-1:]) == 1 else way))): value for way, value in columns}


def with_settings_inside(content: bytes, settings: Mapping[str, Any]) -> bytes:
    """A PNG with one more text, `sweep`: its settings in JSON. Pixels and other texts stay; other formats do, too."""
    if not content.startswith(PNG):
        return content
    text = b"tEXtsweep\0" + json.dumps(settings).encode("ascii")
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    header = len(PNG) + 25  # of IHDR, which comes first
    return content[:header] + chunk + content[header:]
