"""Small line plots with Pillow alone, for reports inside a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Okabe & Ito (2008), https://jfly.uni-koeln.de/color/, without yellow, which is too light on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARGIN = 52  # pixels left of and below a panel
HEADLINE = 18  # pixels of height
TICKS = 8  # on an axis, at most one more

Line = Sequence[tuple[float, float]]  # (x, y)


@dataclass(frozen=True)
class Panel:
    """One plot: lines by name over a common x axis."""

    title: str
    x_name: str
    lines: Mapping[str, Line]
    log: bool = False
    """Whether y grows by factors; what is not above 0 has no place then."""


def plot(panels: Sequence[Panel], headlines: Sequence[str] = (), width: int = 440, height: int = 300) -> Tensor:
    """Panels in two columns below their headlines, [1 H W 3] in [0, 1]."""
    columns = min(2, len(panels))
    top = HEADLINE * len(headlines) + (6 if headlines else 0)
    size = columns * width, top + math.ceil(len(panels) / columns) * height
    sheet = Image.new("RGB", size, "white")
    for index, text in enumerate(headlines):
        ImageDraw.Draw(sheet).text((6, 4 + HEADLINE * index), text[:150], fill="black", font=ImageFont.load_default(13))
    for index, panel in enumerate(panels):
        sheet.paste(_panel(panel, width, height), (index % columns * width, top + index // columns * height))
    pixels = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
    return (pixels.float() / 255).view(1, size[1], size[0], 3)


def _panel(panel: Panel, width: int, height: int) -> Image.Image:
    picture = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    draw.text((MARGIN, 4), panel.title, fill="black", font=ImageFont.load_default(13))
    lines = {name: _shown(line, panel.log) for name, line in panel.lines.items()}
    points = [point for line in lines.values() for point in line]
    box = (MARGIN, 24 + 13 * len(lines), width - 12, height - MARGIN + 12)
    draw.rectangle(box, outline="#999999")
    draw.text(((box[0] + box[2]) / 2, height - 9), panel.x_name, fill="black", font=font, anchor="mm")
    if not points:
        return picture
    ranges = [_range([point[axis] for point in points]) for axis in (0, 1)]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - ranges[0][0]) / (ranges[0][1] - ranges[0][0])
        up = (y - ranges[1][0]) / (ranges[1][1] - ranges[1][0])
        return box[0] + across * (box[2] - box[0]), box[3] - up * (box[3] - box[1])

    for x in ticks(*ranges[0]):
        draw.text((place(x, ranges[1][0])[0], box[3] + 9), f"{x:.3g}", fill="#555555", font=font, anchor="mm")
    for y in factors(*ranges[1]) if panel.log else ticks(*ranges[1]):
        level = place(ranges[0][0], y)[1]
        draw.line((box[0], level, box[2], level), fill="#e5e5e5")
        said = f"{10**y:.3g}" if panel.log else f"{y:.3g}"
        draw.text((box[0] - 4, level), said, fill="#555555", font=font, anchor="rm")
    draw.rectangle(box, outline="#999999")
    for index, (name, line) in enumerate(lines.items()):
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


def _shown(line: Line, log: bool) -> list[tuple[float, float]]:
    """Points where they are drawn: y as its logarithm to base 10 on a log axis."""
    return [(x, math.log10(y)) for x, y in line if y > 0] if log else list(line)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within a range: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def factors(low: float, high: float) -> list[float]:
    """Logarithms to base 10 of round numbers within a range of them: powers of ten; with 2 and 5 if these are few."""
    steps = (1,) if high - low >= 2 else (1, 2, 5)
    found = [math.log10(step) + power for power in range(math.floor(low), math.floor(high) + 1) for step in steps]
    within = [tick for tick in found if low <= tick <= high]
    return within[:: math.ceil(len(within) / TICKS)] if len(within) > 1 else ticks(low, high)
