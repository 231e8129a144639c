"""`python dev.py bench two_shapes`: workflows/two_shapes.webp, the sixteen pictures that *sentence_match* ranks.

Eight show a star and a circle, one red and one blue, in every order of places and colours; eight show anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from training.scenes import COLOURS, SHAPES, TEXTURES
from training.two_shapes import RELATIONS, draw_pairs, moved, render_pairs, swapped

from .host_server import PACK

PICTURES = PACK / "workflows" / "two_shapes.webp"


def chosen(generator: torch.Generator) -> Tensor:
    """[16 3 32 32] in [-1, 1], in a drawn order."""

    def index(names: Iterable[str], name: str) -> Tensor:
        return torch.tensor([list(names).index(name)])

    drawn, other = draw_pairs(64, generator), draw_pairs(8, generator)
    flat, white = index(TEXTURES, "flat"), index(COLOURS, "white")
    found = []
    for relation in ("left of", "above"):
        pair = drawn.rows((drawn.relation == RELATIONS.index(relation)).nonzero()[0])
        first, second = (
            replace(one, shape=index(SHAPES, shape), colour=index(COLOURS, colour), texture=flat, background=white)
            for one, shape, colour in ((pair.first, "star", "red"), (pair.second, "circle", "blue"))
        )
        found.append(replace(pair, first=first, second=second))
    pairs = [
        version for one in found for version in (one, moved(one), swapped(one, "colour"), swapped(moved(one), "colour"))
    ]
    images = torch.cat([render_pairs(one)[0] for one in (*pairs, other)])
    return images[torch.randperm(len(images), generator=generator)]


def main() -> None:
    images = chosen(torch.Generator().manual_seed(4))
    frames = [Image.fromarray(((one + 1) * 127.5).round().byte().movedim(0, -1).numpy()) for one in images]
    frames[0].save(PICTURES, save_all=True, append_images=frames[1:], lossless=True, duration=500)
    print(PICTURES.name)


if __name__ == "__main__":
    main()
