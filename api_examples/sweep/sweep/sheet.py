"""A contact sheet: the first picture of each job, at its place in the grid."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from .grid import Grid, Settings
from .jobs import Job, short

SIDE = 6000  # pixels of a sheet at most, as far as cells of SMALLEST allow
LARGEST, SMALLEST = 192, 24  # pixels of a cell
GAP, TEXT = 6, 13
Picture = Callable[[Job], bytes | None]  # None: there is none


@dataclass(frozen=True)
class Cell:
    """A job's place, and what is written under it where rows and columns don't say it."""

    row: int
    column: int
    job: Job
    caption: str = ""


@dataclass(frozen=True)
class Layout:
    cells: Sequence[Cell]
    columns: Sequence[str]  # headings; empty where cells have captions
    rows: Sequence[str]
    title: str

    def size(self) -> tuple[int, int]:
        """(rows, columns)."""
        return max(cell.row for cell in self.cells) + 1, max(cell.column for cell in self.cells) + 1


def lay_out(grid: Grid, jobs: Sequence[Job]) -> Layout:
    """Some axes across, the others down; a single axis is wrapped, with captions."""
    varied = [axis for axis in grid.axes if len(axis.points) > 1]
    across = [name for axis in varied if axis in grid.columns for name in axis.inputs]
    down = [name for axis in varied if axis not in grid.columns for name in axis.inputs]
    if not across or not down:
        width = math.ceil(math.sqrt(len(jobs)))
        captions = [_said(job.settings, across + down) for job in jobs]
        cells = [Cell(job.number // width, job.number % width, job, captions[job.number]) for job in jobs]
        return Layout(cells, [], [], f"in rows: {', '.join(map(short, across + down))}")
    columns, rows = _labels(jobs, across), _labels(jobs, down)
    place = {key: index for line in (columns, rows) for index, key in enumerate(line)}
    cells = [Cell(place[_key(job.settings, down)], place[_key(job.settings, across)], job) for job in jobs]
    title = f"across: {', '.join(map(short, across))}    down: {', '.join(map(short, down))}"
    return Layout(cells, list(columns.values()), list(rows.values()), title)


def _labels(jobs: Sequence[Job], names: Sequence[str]) -> dict[str, str]:
    """What is written beside each different point, in order."""
    return {_key(job.settings, names): _said(job.settings, names) for job in jobs}


def _key(settings: Settings, names: Sequence[str]) -> str:
    return json.dumps([(name, settings[name]) for name in names])


def _said(settings: Settings, names: Sequence[str]) -> str:
    return ", ".join(_value(settings.get(name)) for name in names)


def _value(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= 28 else f"{text[:18]}...{text[-7:]}"


def draw(layout: Layout, picture: Picture, failed: Mapping[str, Any]) -> bytes:
    """The sheet as PNG. A cell without a picture says why."""
    down, across = layout.size()
    cell = max(SMALLEST, min(LARGEST, SIDE // max(down, across) - GAP))
    font = ImageFont.load_default(TEXT)
    under = TEXT + 4 if layout.cells[0].caption else 0
    left = max([int(font.getlength(label)) for label in layout.rows], default=0) + 2 * GAP
    top = (2 if layout.columns else 1) * (TEXT + 2 * GAP)
    wide = max(left + across * (cell + GAP) + GAP, int(font.getlength(layout.title)) + 2 * GAP)
    sheet = Image.new("RGB", (wide, top + down * (cell + under + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), layout.title, "#555555", font)
    for index, label in enumerate(layout.columns):
        place = (left + index * (cell + GAP) + cell / 2, top - GAP)
        pen.text(place, _fitted(label, font, cell), "black", font, anchor="ms")
    for index, label in enumerate(layout.rows):
        pen.text((left - GAP, top + index * (cell + GAP) + cell / 2), label, "black", font, anchor="rm")
    for entry in layout.cells:
        x, y = left + entry.column * (cell + GAP), top + entry.row * (cell + under + GAP)
        sheet.paste(_tile(entry.job, picture, failed, cell, font), (x, y))
        pen.text((x + cell / 2, y + cell + 2), _fitted(entry.caption, font, cell), "black", font, anchor="mt")
    target = io.BytesIO()
    sheet.save(target, "PNG")
    return target.getvalue()


def _fitted(text: str, font: Any, width: int) -> str:
    while text and font.getlength(text) > width:
        text = text[:-4] + "..." if len(text) > 4 else ""
    return text


def _tile(job: Job, picture: Picture, failed: Mapping[str, Any], side: int, font: Any) -> Image.Image:
    tile = Image.new("RGB", (side, side), "#eeeeee")
    content = picture(job)
    if content is None:
        pen = ImageDraw.Draw(tile)
        pen.text((side / 2, side / 2), "failed" if job.name in failed else "none", "#aa0000", font, anchor="mm")
        return tile
    try:
        with Image.open(io.BytesIO(content)) as image:
            image = image.convert("RGB")
    except (UnidentifiedImageError, OSError):
        return tile
    scale = side / max(image.size)
    scale = float(int(scale)) if scale >= 2 else scale  # small pictures stay sharp
    size = [max(1, round(length * scale)) for length in image.size]
    image = image.resize((size[0], size[1]), Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)
    tile.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return tile
