"""A folder of pictures as training batches: centred squares of one size, half of them mirrored."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Batch:
    image: Tensor  # [B 3 S S] in [-1, 1]


class Pictures:
    """All pictures below a folder, in memory as bytes: 3 S S of them each; in a GPU's where it takes batches."""

    def __init__(self, folder: Path, size: int):
        """Raises FileNotFoundError where there is no readable picture. Unreadable files are named and left out."""
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        squares: list[Tensor] = []
        for path in paths:
            try:
                squares.append(square(path, size))
            except OSError as error:
                print(f"left out, it can't be read: {path} ({error})", file=sys.stderr, flush=True)
        if not squares:
            raise FileNotFoundError(f"--images {folder}: no readable picture ({', '.join(sorted(SUFFIXES))}) in it")
        self.bytes = torch.stack(squares)

    def __len__(self) -> int:
        return len(self.bytes)

    def picked(self, rows: Tensor) -> Tensor:
        """[B] -> [B 3 S S] in [-1, 1]."""
        return _floats(self.bytes[rows])

    def batches(self, batch: int, generator: torch.Generator) -> Iterator[Batch]:
        """Endless; drawn with replacement."""
        device = generator.device
        stored = self.bytes.to(device)  # picking on the host would wait for the GPU at each batch
        while True:
            rows = torch.randint(len(self), (batch,), generator=generator, device=device)
            mirrored = torch.rand(batch, 1, 1, 1, generator=generator, device=device) < 0.5
            image = _floats(stored[rows])
            yield Batch(torch.where(mirrored, image.flip(-1), image))

    def once(self, batch: int) -> Iterator[Tensor]:
        """Every picture and its mirror image, [B 3 S S] at a time."""
        for rows in torch.arange(len(self)).split(batch):
            image = self.picked(rows)
            yield from (image, image.flip(-1))


def _floats(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def square(path: Path, size: int) -> Tensor:
    """The middle of a picture as it is seen, uint8 [3 S S]."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    fitted = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(numpy.array(fitted)).movedim(-1, 0)
