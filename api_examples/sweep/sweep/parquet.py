"""The table as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from .table import Row, plain


def to_parquet(table: Sequence[Row]) -> bytes:
    """Numbers as numbers; a column of several kinds as text."""
    columns = {name: _one_kind([plain(row[name]) for row in table]) for name in (table[0] if table else [])}
    target = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), target)
    return target.getvalue().to_pybytes()


def _one_kind(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return values if len(kinds) < 2 else [None if value is None else str(value) for value in values]
