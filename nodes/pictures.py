"""Pictures of pictures."""

from __future__ import annotations

import math

import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .host.errors import GuidanceNode, about

GAP = 2  # pixels between pictures
CAPTION = 12  # pixels of height


def split_labels(text: str) -> list[str]:
    """Captions, one a line or between semicolons; an empty text means none."""
    return [part.strip() for part in text.replace(";", "\n").split("\n")] if text.strip() else []


def caption(text: str, width: int) -> Tensor:
    """One line of text [CAPTION width 3] in [0, 1], dark on white."""
    strip = Image.new("L", (width, CAPTION), 255)
    ImageDraw.Draw(strip).text((1, 0), text, fill=0, font=ImageFont.load_default(10))
    values = torch.tensor(list(strip.tobytes()), dtype=torch.float32).view(CAPTION, width, 1)
    return (values / 255).expand(-1, -1, 3)


def contact_sheet(images: Tensor, columns: int, labels: list[str], scale: int) -> Tensor:
    """[B H W 3] in [0, 1] -> [1 H' W' 3]: rows of `columns` pictures, enlarged without smoothing, captions above them.

    One label is repeated for all; fewer labels than pictures start again from the first. columns 0 makes a square.
    """
    count = len(images)
    columns = columns or math.ceil(math.sqrt(count))
    tiles = interpolate(images.movedim(-1, 1), scale_factor=scale, mode="nearest").movedim(1, -1)
    if labels:
        width = tiles.shape[2]
        tops = torch.stack([caption(labels[index % len(labels)], width) for index in range(count)])
        tiles = torch.cat([tops.to(tiles), tiles], dim=1)
    tiles = pad(tiles, (0, 0, GAP, GAP, GAP, GAP), value=1.0)
    rows = math.ceil(count / columns)
    blank = tiles.new_ones(rows * columns - count, *tiles.shape[1:])
    grid = torch.cat([tiles, blank]).view(rows, columns, *tiles.shape[1:])
    return grid.transpose(1, 2).reshape(1, rows * tiles.shape[1], columns * tiles.shape[2], 3)


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
            search_aliases=["grid", "image grid", "comparison"],
            inputs=[
                io.Autogrow.Input("images", template=images),
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
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def run(cls, images: dict[str, Tensor], columns: int, labels: str, scale: int) -> io.NodeOutput:
        batches = [batch[..., :3] for batch in images.values() if batch is not None]
        with about("images"):
            if not batches:
                raise ValueError("at least one IMAGE is needed")
            sizes = sorted({f"{batch.shape[2]} x {batch.shape[1]}" for batch in batches})
            if len(sizes) > 1:
                raise ValueError(f"pictures of one size are needed, these are {' and '.join(sizes)}; resize them first")
        return io.NodeOutput(contact_sheet(torch.cat(batches), columns, split_labels(labels), scale))


NODES: list[type[io.ComfyNode]] = [ContactSheet]
