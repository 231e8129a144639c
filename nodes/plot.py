"""Small line plots with Pillow alone, for reports inside a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")
MARGIN = 46  # pixels left of and below a panel
TICKS = 4

Line = Sequence[tuple[float, float]]  # (x, y)


@dataclass(frozen=True)
class Panel:
    """One plot: lines by name over a common x axis."""

    title: str
    x_name: str
    lines: Mapping[str, Line]


def plot(panels: Sequence[Panel], width: int = 440, height: int = 300) -> Tensor:
    """Panels in two columns, [1 H W 3] in [0, 1]."""
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, panel in enumerate(panels):
        sheet.paste(_panel(panel, width, height), (index % columns * width, index // columns * height))
    pixels = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
    return (pixels.float() / 255).view(1, rows * height, columns * width, 3)


def _panel(panel: Panel, width: int, height: int) -> Image.Image:
    picture = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    draw.text((MARGIN, 4), panel.title, fill="black", font=ImageFont.load_default(13))
    points = [point for line in panel.lines.values() for point in line]
    box = (MARGIN, 24 + 13 * len(panel.lines), width - 12, height - MARGIN + 12)
    draw.rectangle(box, outline="#999999")
    draw.text(((box[0] + box[2]) / 2, height - 9), panel.x_name, fill="black", font=font, anchor="mm")
    if not points:
        return picture
    ranges = [_range([point[axis] for point in points]) for axis in (0, 1)]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - ranges[0][0]) / (ranges[0][1] - ranges[0][0])
        up = (y - ranges[1][0]) / (ranges[1][1] - ranges[1][0])
        return box[0] + across * (box[2] - box[0]), box[3] - up * (box[3] - box[1])

    for tick in range(TICKS + 1):
        x, y = (low + (high - low) * tick / TICKS for low, high in ranges)
        draw.text((place(x, ranges[1][0])[0], box[3] + 9), f"{x:.3g}", fill="#555555", font=font, anchor="mm")
        draw.text((box[0] - 4, place(ranges[0][0], y)[1]), f"{y:.3g}", fill="#555555", font=font, anchor="rm")
    for index, (name, line) in enumerate(panel.lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        draw.text((MARGIN, 21 + 13 * index), name[:60], fill=colour, font=font)
        spots = [place(*point) for point in line]
        if len(spots) > 1:
            draw.line(spots, fill=colour, width=2)
        for x, y in spots:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    return picture


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room
