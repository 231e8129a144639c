"""A page with every picture of a sweep: filters, order by any column, failures. One file; pictures lie beside it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .jobs import Job, short
from .table import FIXED, Row

TEMPLATE = Path(__file__).with_name("page.html")


def page(name: str, jobs: Sequence[Job], table: Sequence[Row], failed: Mapping[str, Mapping[str, Any]]) -> bytes:
    """HTML in UTF-8. Values come in as data, never as markup."""
    inputs = {short(setting) for job in jobs for setting in job.settings}
    columns = [column for column in (table[0] if table else []) if column not in FIXED]
    data = {
        "inputs": [column for column in columns if column in inputs],
        "scores": [column for column in columns if column not in inputs] + ["seconds"],
        "jobs": [{**row, "pictures": row["pictures"].split()} for row in table],
        "failed": [
            {"settings": str(job), "error": failed[job.name]["errors"][-1]} for job in jobs if job.name in failed
        ],
        "total": len(jobs),
    }
    inside = json.dumps(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    text = TEMPLATE.read_text("utf-8").replace("NAME_OF_SWEEP", html.escape(name)).replace('"DATA_OF_SWEEP"', inside)
    return text.encode()
