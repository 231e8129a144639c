"""What a sweep leaves for people: a table, a contact sheet, a page, and the failures in words."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import SweepError
from .grid import Grid
from .jobs import Job
from .progress import complain
from .store import Store
from .table import Row, rows, to_csv


def summary(grid: Grid, jobs: Sequence[Job], name: str, store: Store) -> int:
    """Writes it of all that is finished, lists failures, and returns how many jobs have no result."""
    records = store.records(job.name for job in jobs)
    failed = store.records((job.name for job in jobs if job.name not in records), "failed")
    table = rows(jobs, records)
    try:
        if failed or store.read(f"{name}.csv") != to_csv(table):
            _write(grid, jobs, name, store, table, failed)
    except OSError as error:
        raise SweepError(f"the table can't be written to {store.folder}: {error}; see to it and start again") from None
    for job in jobs:
        if job.name in failed:
            complain(f"failed: {failed[job.name]['errors'][-1]} [{job}]")
    again = "; --again tries the failed ones once more" if failed else ""
    complain(f"{len(records)} of {len(jobs)} jobs finished, {len(failed)} failed: {name}.html in {store.folder}{again}")
    return len(jobs) - len(records)


def _write(grid: Grid, jobs: Sequence[Job], name: str, store: Store, table: Sequence[Row], failed: dict) -> None:
    """The CSV last: it tells that the others are of the same results."""
    from .page import page  # here, because a sweep that has nothing to do starts much faster without them
    from .parquet import to_parquet
    from .sheet import draw, lay_out

    pictures = {row["job"]: row["pictures"].split()[0] for row in table if row["pictures"]}

    def picture(job: Job) -> bytes | None:
        return store.read(pictures[job.name]) if job.name in pictures else None

    store.write(f"{name}.parquet", to_parquet(table))
    store.write(f"{name}.html", page(name, jobs, table, failed))
    store.write(f"{name}.png", draw(lay_out(grid, jobs), picture, failed))
    store.write(f"{name}.csv", to_csv(table))
