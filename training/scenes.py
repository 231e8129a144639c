"""Pictures with known truth: one textured shape on a plain background.

`draw` picks attributes, `render` turns them into anti-aliased pictures and `caption` into words. Everything is
vectorised over the batch and runs on any device; 32x32 pictures come at thousands a second.

Coordinates: x to the right and y downwards, both in [-1, 1] over the picture. Lengths inside a shape are relative to
its half-size; distances are signed, negative inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

COLOURS = {
    "red": (0.87, 0.13, 0.13),
    "yellow": (0.98, 0.87, 0.15),
    "green": (0.12, 0.62, 0.26),
    "cyan": (0.24, 0.78, 0.92),
    "blue": (0.12, 0.22, 0.76),
    "purple": (0.74, 0.26, 0.80),
    "white": (0.96, 0.96, 0.96),
    "black": (0.09, 0.09, 0.11),
}
MIN_SIZE, MAX_SIZE = 0.35, 0.70
MAX_ANGLE = 0.26  # radians, 15 degrees
COLOUR_JITTER = 0.03


@dataclass(frozen=True)
class Attributes:
    """What a batch of scenes shows. Class indices point into `CLASSES`; geometry is in picture units."""

    shape: Tensor  # [B] long
    colour: Tensor  # [B] long
    background: Tensor  # [B] long, never equal to colour
    texture: Tensor  # [B] long
    centre: Tensor  # [B 2] x, y in [-1, 1]
    size: Tensor  # [B] half-size in [MIN_SIZE, MAX_SIZE]
    angle: Tensor  # [B] radians in [-MAX_ANGLE, MAX_ANGLE]
    jitter: Tensor  # [B 2 3] what is added to the shape's and the background's colour, in [0, 1] units

    def __len__(self) -> int:
        return len(self.shape)

    def labels(self) -> Tensor:
        """Class indices [B 4] in the order of `CLASSES`."""
        return torch.stack([getattr(self, name) for name in CLASSES], dim=1)


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes and what they show."""

    image: Tensor  # [B 3 H W] in [-1, 1]
    mask: Tensor  # [B 1 H W] coverage by the shape in [0, 1]
    attributes: Attributes


def _length(x: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y + 1e-12)


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return _length(x, y) - 0.92


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return _length(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.82, 0.82)


def _polygon(x: Tensor, y: Tensor, corners: list[tuple[float, float]]) -> Tensor:
    """Distance to the nearest edge, its sign from the crossing number."""
    nearest = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, _length(px - along * ex, py - along * ey))
        crosses = ((ay > y) != (by > y)) & (x < ex * (y - ay) / (ey if ey else 1e-12) + ax)
        inside ^= crosses
    return torch.where(inside, -nearest, nearest)


def _rays(count: int, radii: tuple[float, ...], centre_y: float = 0.0) -> list[tuple[float, float]]:
    """Corners of a polygon around the centre, the first one on top; `radii` repeat around it."""
    turn = [2 * math.pi * k / count for k in range(count)]
    return [(r * math.sin(a), centre_y - r * math.cos(a)) for a, r in zip(turn, radii * count, strict=False)]


TRIANGLE = _rays(3, (1.12,), centre_y=0.22)
STAR = _rays(10, (1.08, 0.46), centre_y=0.06)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return _polygon(x, y, TRIANGLE)


def _star(x: Tensor, y: Tensor) -> Tensor:
    return _polygon(x, y, STAR)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.95, 0.31), _box(x, y, 0.31, 0.95))


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (_length(x, y) - 0.70).abs() - 0.26


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """Two discs on a square standing on its corner."""
    x, y = x.abs(), y + 0.14
    lobe = _length(x - 0.45, y + 0.20) - 0.50
    u, v = (x + y - 0.22) / math.sqrt(2), (y - x - 0.22) / math.sqrt(2)
    return torch.minimum(lobe, _box(u, v, 0.56, 0.56))


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(_length(x, y) - 0.95, 0.72 - _length(x - 0.46, y))


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "crescent": _crescent,
}


def _soft_step(distance: Tensor) -> Tensor:
    """1 where a distance in pixels is negative, 0 where it is positive, a ramp one pixel wide between."""
    return (0.5 - distance).clamp(0, 1)


def _flat(x: Tensor, y: Tensor) -> Tensor:
    return torch.zeros_like(x)


def _striped(x: Tensor, y: Tensor) -> Tensor:
    return _soft_step((y / 6 - torch.round(y / 6)).abs() * 6 - 1.5)


def _dotted(x: Tensor, y: Tensor) -> Tensor:
    u, v = x - 5.5 * torch.round(x / 5.5), y - 5.5 * torch.round(y / 5.5)
    return _soft_step(_length(u, v) - 1.6)


def _checkered(x: Tensor, y: Tensor) -> Tensor:
    wave = torch.sin(math.pi * x / 3.5) * torch.sin(math.pi * y / 3.5)
    return _soft_step(-3 * wave)


def _shaded(x: Tensor, y: Tensor, reach: float = 8.0) -> Tensor:
    return ((y + reach) / (2 * reach)).clamp(0, 1)


# How much of the dark tone is mixed in, [B H W] in [0, 1], at pixel coordinates around the shape's centre.
TEXTURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "flat": _flat,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
    "shaded": _shaded,
}

CLASSES: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "colour": tuple(COLOURS),
    "background": tuple(f"{colour} background" for colour in COLOURS),
    "texture": tuple(TEXTURES),
}
CLASS_NAMES: tuple[str, ...] = tuple(name for names in CLASSES.values() for name in names)


def first_index(attribute: str) -> int:
    """Where the classes of an attribute begin in `CLASS_NAMES`."""
    return CLASS_NAMES.index(CLASSES[attribute][0])


def draw(count: int, generator: torch.Generator, **fixed: Tensor) -> Attributes:
    """Random attributes, on the generator's device. `fixed` gives some of them, for instance `shape=labels`."""
    device = generator.device

    def integer(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator, device=device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, device=device)

    colours = len(COLOURS)
    shape, colour, texture = integer(len(SHAPES)), integer(colours), integer(len(TEXTURES))
    colour = fixed.get("colour", colour)
    background = (colour + 1 + integer(colours - 1)) % colours
    if "background" in fixed and "colour" not in fixed:
        colour = (fixed["background"] + 1 + integer(colours - 1)) % colours
    size = MIN_SIZE + (MAX_SIZE - MIN_SIZE) * uniform()
    drawn = Attributes(
        shape=shape,
        colour=colour,
        background=background,
        texture=texture,
        centre=(2 * uniform(2) - 1) * (1 - size)[:, None],
        size=size,
        angle=(2 * uniform() - 1) * MAX_ANGLE,
        jitter=(2 * uniform(2, 3) - 1) * COLOUR_JITTER,
    )
    return Attributes(**{**vars(drawn), **fixed})


def _by_class(functions: Iterable[Callable[[Tensor, Tensor], Tensor]], index: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Row b is `functions[index[b]](x[b], y[b])`; each function sees its rows only."""
    values = torch.empty_like(x)
    for k, function in enumerate(functions):
        rows = (index == k).nonzero()[:, 0]
        values[rows] = function(x[rows], y[rows])
    return values


def _local_coordinates(attributes: Attributes, resolution: int) -> tuple[Tensor, Tensor]:
    """x, y [B H W] of the pixel centres, in picture units, seen from the shape: moved and turned back."""
    axis = (torch.arange(resolution, device=attributes.size.device) + 0.5) * 2 / resolution - 1
    x = axis[None, None, :] - attributes.centre[:, 0, None, None]
    y = axis[None, :, None] - attributes.centre[:, 1, None, None]
    cos, sin = torch.cos(attributes.angle)[:, None, None], torch.sin(attributes.angle)[:, None, None]
    return cos * x + sin * y, cos * y - sin * x


def render(attributes: Attributes, resolution: int = 32) -> Scenes:
    """Draws the scenes. Textures have a fixed size in pixels of a 32-pixel picture."""
    x, y = _local_coordinates(attributes, resolution)
    size = attributes.size[:, None, None]
    distance = _by_class(SHAPES.values(), attributes.shape, x / size, y / size)
    mask = _soft_step(distance * size * resolution / 2)[:, None]
    tone = _by_class(TEXTURES.values(), attributes.texture, 16 * x, 16 * y)[:, None]

    palette = torch.tensor(list(COLOURS.values()), device=x.device)
    light = palette[attributes.colour] + attributes.jitter[:, 0]
    is_black = (attributes.colour == list(COLOURS).index("black"))[:, None]
    dark = torch.where(is_black, light + 0.42, light * 0.42)
    backdrop = palette[attributes.background] + attributes.jitter[:, 1]
    light, dark, backdrop = (value[:, :, None, None] for value in (light, dark, backdrop))
    painted = light + (dark - light) * tone
    image = backdrop + (painted - backdrop) * mask
    return Scenes(image.clamp(0, 1) * 2 - 1, mask, attributes)


def caption(attributes: Attributes, generator: torch.Generator | None = None) -> list[str]:
    """One line for each scene, "a dotted red heart on a white background"; a generator leaves some words out."""
    lines = []
    for shape, colour, background, texture in attributes.labels().tolist():
        keep = [True] * 3 if generator is None else (torch.rand(3, generator=generator) < 0.7).tolist()
        words = [CLASSES["texture"][texture]] * keep[0] + [CLASSES["colour"][colour]] * keep[1]
        noun = " ".join([*words, CLASSES["shape"][shape]])
        lines.append(f"a {noun}" + f" on a {CLASSES['background'][background]}" * keep[2])
    return lines
