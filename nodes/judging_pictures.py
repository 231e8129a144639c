"""Tables and bars of what an encoder said, with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

THUMBNAIL, CELL, HEADER, BAR = 64, 112, 34, 15  # pixels
MOST = 64  # pictures that are drawn
INK, LINE, LIGHT, DARK = "#222222", "#dddddd", (255, 255, 255), (105, 170, 225)


def table(images: Tensor, texts: Sequence[str], cells: Sequence[Sequence[str]], shares: Tensor) -> Tensor:
    """A row for each picture of [B H W C], a column for each text; the larger its share in [0, 1], the darker a cell.

    [1 H W 3] in [0, 1].
    """
    drawn = min(len(images), MOST)
    note = BAR + 4 if drawn < len(images) else 0
    sheet = Image.new("RGB", (THUMBNAIL + CELL * len(texts), HEADER + THUMBNAIL * drawn + note), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, text in enumerate(texts):
        draw.multiline_text((THUMBNAIL + CELL * column + 4, 3), wrapped(text, CELL - 8, 2), fill=INK, font=font)
    for row in range(drawn):
        top = HEADER + THUMBNAIL * row
        sheet.paste(thumbnail(images[row]), (0, top))
        for column, (said, share) in enumerate(zip(cells[row], shares[row].tolist(), strict=True)):
            left = THUMBNAIL + CELL * column
            draw.rectangle((left, top, left + CELL - 1, top + THUMBNAIL - 1), fill=tone(share), outline=LINE)
            middle = (left + CELL / 2, top + THUMBNAIL / 2)
            draw.multiline_text(middle, said, fill=INK, font=ImageFont.load_default(13), anchor="mm", align="center")
    if note:
        draw.text((4, sheet.height - BAR), more(len(images) - drawn), fill=INK, font=font)
    return as_image(sheet)


def bars(images: Tensor, named: Sequence[Sequence[tuple[str, float]]], width: int = 400) -> Tensor:
    """A picture of [B H W C] and its classes with their shares in [0, 1], the largest first. [1 H W 3] in [0, 1]."""
    drawn = min(len(images), MOST)
    tall = max(THUMBNAIL, BAR * max(map(len, named))) + 6
    note = BAR + 4 if drawn < len(images) else 0
    sheet = Image.new("RGB", (width, tall * drawn + note), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    start, reach = THUMBNAIL + 150, width - THUMBNAIL - 150 - 50
    for row in range(drawn):
        top = tall * row + 3
        sheet.paste(thumbnail(images[row]), (0, top))
        for place, (name, share) in enumerate(named[row]):
            y = top + BAR * place
            draw.text((THUMBNAIL + 6, y), wrapped(name, 138, 1), fill=INK, font=font)
            draw.rectangle((start, y + 2, start + reach, y + BAR - 3), outline=LINE)
            draw.rectangle((start, y + 2, start + round(reach * share), y + BAR - 3), fill=DARK)
            draw.text((start + reach + 6, y), f"{100 * share:.1f} %", fill=INK, font=font)
    if note:
        draw.text((4, sheet.height - BAR), more(len(images) - drawn), fill=INK, font=font)
    return as_image(sheet)


def more(left: int) -> str:
    return f"and {left} more picture{'s' * (left > 1)}, which the JSON tells of"


def tone(share: float) -> tuple[int, ...]:
    return tuple(round(light + (dark - light) * share) for light, dark in zip(LIGHT, DARK, strict=True))


def wrapped(text: str, width: int, lines: int) -> str:
    """At most so many lines of so many pixels; what doesn't fit is replaced by dots."""
    font, rows, words = ImageFont.load_default(11), [], text.split()
    while words and len(rows) < lines:
        row = words.pop(0)
        while words and font.getlength(f"{row} {words[0]}") <= width:
            row = f"{row} {words.pop(0)}"
        rows.append(row)
    last = f"{rows[-1]} ..." if words else rows[-1] if rows else ""
    while font.getlength(last) > width and len(last) > 4:
        last = f"{last.removesuffix('...').rstrip()[:-1]}..."
    return "\n".join([*rows[:-1], last])


def thumbnail(image: Tensor) -> Image.Image:
    """[H W C] in [0, 1], whole, in a square; small pictures are enlarged without smoothing."""
    pixels = (image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    picture, inside = Image.fromarray(pixels), THUMBNAIL - 2
    scale = inside / max(picture.size)
    way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], way)
    square = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white")
    square.paste(picture, ((THUMBNAIL - picture.width) // 2, (THUMBNAIL - picture.height) // 2))
    return square


def as_image(sheet: Image.Image) -> Tensor:
    values = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
    return (values.float() / 255).view(1, sheet.height, sheet.width, 3)
