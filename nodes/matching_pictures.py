"""Which word attends to which region, drawn over the pictures with Pillow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from .judging_pictures import INK, as_image, wrapped

CELL, HEADER, LABEL, GAP = 72, 22, 16, 4  # pixels
DIM = 0.25  # of a picture where a word does not look

Part = tuple[str, Sequence[str], Sequence[int], Tensor]  # sentence, words, places of pictures, heat [n w h w]


def attended(images: Tensor, parts: Sequence[Part]) -> Tensor:
    """A row for each picture of each sentence, a column for each word: bright where it looks, beside the picture
    itself. [1 H W 3] in [0, 1]."""
    width = GAP + (CELL + GAP) * (1 + max(len(words) for _, words, _, _ in parts))
    height = sum(HEADER + (CELL + LABEL + GAP) * len(places) for _, _, places, _ in parts)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(11), 0
    for text, words, places, heat in parts:
        draw.text((GAP, top + 4), wrapped(text, width - 2 * GAP, 1), fill=INK, font=ImageFont.load_default(13))
        top += HEADER
        for row, place in enumerate(places):
            square = middle(images[place])
            bright = relative(heat[row])
            for column, (name, shown) in enumerate(
                [
                    (f"picture {place}", square),
                    *((word, lit(square, one)) for word, one in zip(words, bright, strict=True)),
                ]
            ):
                left = GAP + (CELL + GAP) * column
                sheet.paste(as_picture(shown), (left, top))
                draw.text((left, top + CELL + 1), wrapped(name, CELL, 1), fill=INK, font=font)
            top += CELL + LABEL + GAP
    return as_image(sheet)


def relative(heat: Tensor) -> Tensor:
    """[w h w] -> [w CELL CELL] in [0, 1]: how much a word looks at each place, over the most that it looks anywhere."""
    heat = heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-9)
    return interpolate(heat[None].float(), (CELL, CELL), mode="nearest")[0]


def middle(image: Tensor) -> Tensor:
    """[H W C] in [0, 1] -> the middle square [CELL CELL 3]."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    square = image[top : top + side, left : left + side, :3].movedim(-1, 0)[None].float().clamp(0, 1)
    smooth = side >= CELL
    resized = interpolate(square, (CELL, CELL), mode="bicubic" if smooth else "nearest", antialias=smooth)
    return resized[0].movedim(0, -1).clamp(0, 1)


def lit(square: Tensor, bright: Tensor) -> Tensor:
    return square * (DIM + (1 - DIM) * bright[..., None])


def as_picture(values: Tensor) -> Image.Image:
    return Image.fromarray((values * 255).round().to(torch.uint8).cpu().numpy())
