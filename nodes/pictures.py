"""Pictures of pictures."""

from __future__ import annotations

import math
from itertools import cycle, islice

import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .host.errors import GuidanceNode, about

GAP = 2  # pixels between pictures
CAPTION, TITLE = 12, 16  # pixels of height


def split_labels(text: str) -> list[str]:
    """Captions, one a line or between semicolons; an empty text means none."""
    return [part.strip() for part in text.replace(";", "\n").split("\n")] if text.strip() else []


def line(text: str, width: int, height: int) -> Tensor:
    """One line of text [height width 3] in [0, 1], dark on white; no letter is narrower than a pixel."""
    strip = Image.new("L", (width, height), 255)
    ImageDraw.Draw(strip).text((1, 0), text[:width], fill=0, font=ImageFont.load_default(height - 2))
    values = torch.tensor(list(strip.tobytes()), dtype=torch.float32).view(height, width, 1)
    return (values / 255).expand(-1, -1, 3)


def sheet_row(tiles: Tensor, columns: int, captions: list[str], title: str) -> Tensor:
    """[n h w 3], n <= columns -> [H W 3]: the pictures side by side, captions above them, the title above all; a row
    whose captions are all empty has no room for them, and so with the title."""
    if any(captions):
        tops = torch.stack([line(text, tiles.shape[2], CAPTION) for text in captions])
        tiles = torch.cat([tops.to(tiles), tiles], dim=1)
    tiles = pad(tiles, (0, 0, GAP, GAP, GAP, GAP), value=1.0)
    blank = tiles.new_ones(columns - len(tiles), *tiles.shape[1:])
    row = torch.cat([tiles, blank]).transpose(0, 1).flatten(1, 2)
    return torch.cat([line(title, row.shape[1], TITLE).to(row), row]) if title else row


def check_sizes(batches: list[Tensor]) -> None:
    """Raises ValueError where pictures [B H W C] are not all of one size."""
    sizes = sorted({f"{batch.shape[2]} x {batch.shape[1]}" for batch in batches})
    if len(sizes) > 1:
        raise ValueError(f"pictures of one size are needed, these are {' and '.join(sizes)}; resize them first")


def contact_sheet(batches: list[Tensor], columns: int, labels: list[str], scale: int, titles: list[str]) -> Tensor:
    """Batches [B H W 3] in [0, 1] -> [1 H' W' 3]: rows of `columns` pictures, enlarged without smoothing.

    One label is repeated for all; fewer labels than pictures start again from the first. With titles each batch begins
    a row, under its own. columns 0 makes a square. Raises ValueError for more titles than batches.
    """
    if len(titles) > len(batches):
        raise ValueError(f"one title for each batch of images is needed, these are {len(titles)} for {len(batches)}")
    columns = columns or math.ceil(math.sqrt(sum(map(len, batches))))
    groups = batches if titles else [torch.cat(batches)]
    captions = cycle(labels or [""])
    rows = []
    for images, title in zip(groups, titles + [""] * (len(groups) - len(titles)), strict=True):
        for place, part in enumerate(images.split(columns)):
            tiles = interpolate(part.movedim(-1, 1), scale_factor=scale, mode="nearest").movedim(1, -1)
            rows.append(sheet_row(tiles, columns, list(islice(captions, len(part))), "" if place else title))
    return torch.cat(rows)[None]


class ContactSheet(GuidanceNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        images = io.Autogrow.TemplatePrefix(
            io.Image.Input("image", tooltip="Pictures of one size; a new slot appears when this one is connected."),
            prefix="image",
            min=1,
            max=16,
        )
        return io.Schema(
            node_id="Guidance_ContactSheet",
            display_name="Contact Sheet",
            category="guidance/sampling",
            description="Lays all pictures out on one sheet, enlarged without smoothing, with captions.",
            search_aliases=["grid", "image grid", "comparison", "对比图", "拼图"],
            inputs=[
                io.Autogrow.Input("images", template=images, tooltip="Batches of one size; they follow each other."),
                io.Int.Input(
                    "columns", default=8, min=0, max=64, tooltip="Pictures a row; 0 makes the sheet about square."
                ),
                io.String.Input(
                    "labels",
                    multiline=True,
                    default="",
                    tooltip="Captions, one a line; they start again when they run out.",
                ),
                io.Int.Input("scale", default=4, min=1, max=16, tooltip="Each pixel becomes a square of this side."),
                io.String.Input(
                    "titles",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Titles of the batches, one a line. Each batch then begins a row, under its title.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="One sheet.")],
        )

    @classmethod
    def run(cls, images: dict[str, Tensor], columns: int, labels: str, scale: int, titles: str = "") -> io.NodeOutput:
        batches = [batch[..., :3] for batch in images.values() if batch is not None]
        with about("images"):
            if not batches:
                raise ValueError("at least one IMAGE is needed")
            check_sizes(batches)
        with about("titles"):
            sheet = contact_sheet(batches, columns, split_labels(labels), scale, split_labels(titles))
        return io.NodeOutput(sheet)


NODES: list[type[io.ComfyNode]] = [ContactSheet]
