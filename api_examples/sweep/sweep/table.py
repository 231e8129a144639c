"""The results of a sweep as a table: a row for each finished job."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .jobs import Job, short

Row = dict[str, Any]
FIXED = ("job", "pictures", "host", "seconds", "pack_version", "finished")


def rows(jobs: Sequence[Job], records: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Settings, then scores, then what is known of the run; in the order of the grid. Every row has every column."""
    found = [(job, records[job.name]) for job in jobs if job.name in records]
    inputs = list(dict.fromkeys(name for job, _ in found for name in job.settings))
    measured = list(dict.fromkeys(name for _, record in found for name in record["scores"]))
    settings = {name: short(name) for name in inputs}
    # A score may be called as an input or as a column of ours.
    taken = {*settings.values(), *FIXED}
    columns = {name: f"score {name}" if name in taken else name for name in measured}
    table = []
    for job, record in found:
        row: Row = {settings[name]: job.settings.get(name) for name in inputs}
        row |= {columns[name]: record["scores"].get(name) for name in measured}
        row |= {name: record[name] for name in FIXED}
        table.append(row | {"pictures": " ".join(record["pictures"])})
    return table


def to_csv(table: Sequence[Row]) -> bytes:
    """UTF-8 with a header; links and other lists as JSON."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(table[0]) if table else ["job"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: plain(value) for name, value in row.items()} for row in table)
    return text.getvalue().encode()


def plain(value: Any) -> Any:
    """A list as JSON, anything else as it is."""
    return json.dumps(value) if isinstance(value, list | dict) else value
