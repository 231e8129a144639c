"""`python dev.py bench thumbnails NAME...`: the square picture of a template, out of workflows/pictures/NAME.jpg.

Before and after side by side, over captions: workflows/browser/thumbnails.json names the rows of the contact sheet that
stand beside each other and the pictures of each. Without rows the whole picture is shown.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .host_server import PACK

FOLDER, TEMPLATES = PACK / "workflows", PACK / "example_workflows"
SIDE, BAND, GAP = 480, 40, 4  # pixels
TITLE, EDGE = 16, 2  # of a contact sheet, as in nodes/pictures.py
GRAPH = "#141414"  # around a picture of a graph


def tiles(picture: Image.Image, sheet: dict[str, Any], rows: list[int], places: list[int]) -> list[Image.Image]:
    """Pictures of a contact sheet: for each place those of all rows, a row being what stands under one title."""
    titles = [title for title in sheet.get("titles", "").split("\n") if title]
    height = picture.height // max(1, len(titles))
    columns, side = sheet["columns"], 32 * sheet["scale"]
    pitch = side + 2 * EDGE
    lines = height // pitch
    band = (height - (TITLE if titles else 0)) // lines  # of one line of pictures, below its captions
    found = []
    for place in places:
        for row in rows:
            left = (place % columns) * pitch + EDGE
            below = row * height + (TITLE if titles else 0) + (place // columns + 1) * band
            found.append(picture.crop((left, below - EDGE - side, left + side, below - EDGE)))
    return found


def square(cells: list[Image.Image], captions: list[str], across: int, paper: str = "white") -> Image.Image:
    """Cells in lines of `across`, each column over its caption: at the top the browser puts a mark of its own."""
    made = Image.new("RGB", (SIDE, SIDE), paper)
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(24)
    for place, text in enumerate(captions):
        centre = (place + 0.5) * SIDE / len(captions)
        draw.text(
            (centre, SIDE - BAND / 2), text, fill="black" if paper == "white" else "white", font=font, anchor="mm"
        )
    width, height = SIDE // across, (SIDE - BAND) // (len(cells) // across)
    for place, cell in enumerate(cells):
        smooth = Image.Resampling.NEAREST if cell.width < width else Image.Resampling.LANCZOS
        scale = min((width - GAP) / cell.width, (height - GAP) / cell.height)
        cell = cell.resize((int(cell.width * scale), int(cell.height * scale)), smooth)
        left, top = (place % across) * width, (place // across) * height
        made.paste(cell, (left + (width - cell.width) // 2, top + (height - cell.height) // 2))
    return made


def thumbnail(name: str, title: str, wanted: dict[str, Any]) -> Image.Image:
    picture = Image.open(FOLDER / "pictures" / f"{name}.jpg").convert("RGB")
    captions = wanted.get("captions", [title.partition(" - ")[2] or title])
    if "rows" not in wanted:
        return square([picture], captions, 1, "white" if wanted else GRAPH)
    nodes = json.loads((FOLDER / "api" / f"{name}.json").read_text("utf-8")).values()
    sheet = next(node["inputs"] for node in nodes if node["class_type"] == "Guidance_ContactSheet")
    across = len(wanted["rows"]) if len(wanted["rows"]) > 1 else 2
    return square(tiles(picture, sheet, wanted["rows"], wanted["columns"]), captions, across)


def main() -> None:
    titles, wanted = (
        json.loads((FOLDER / "browser" / f"{name}.json").read_text("utf-8")) for name in ("names", "thumbnails")
    )
    for name in sys.argv[1:] or [path.stem for path in sorted((FOLDER / "pictures").glob("*.jpg"))]:
        file = Path(TEMPLATES / f"{titles[name]}.jpg")
        thumbnail(name, titles[name], wanted.get(name, {})).save(file, quality=90)
        print(f"example_workflows/{file.name}")


if __name__ == "__main__":
    main()
