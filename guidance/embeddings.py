"""Between two CLIP embeddings (Ramesh et al. 2022, arXiv 2204.06125, sec. 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

SMALL = 1e-6  # radians below which a sphere is flat


def lerp(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """[D], [D], fractions [n] -> [n D]; 0 is a and 1 is b, to the bit."""
    return torch.lerp(a[None], b[None], fraction[:, None])


def slerp(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """The same along the sphere, and between the lengths: what DALL-E 2 interpolates by.

    sin((1 - f) w) / sin w a + sin(f w) / sin w b of the directions, w the angle between them. Nearly the same or
    opposite directions are mixed along the chord.
    """
    lengths = a.norm(), b.norm()
    directions = a / lengths[0], b / lengths[1]
    angle = torch.arccos((directions[0] * directions[1]).sum().clamp(-1, 1))
    if min(angle, torch.pi - angle) < SMALL:
        return lerp(a, b, fraction)
    f = fraction[:, None]
    along = (torch.sin((1 - f) * angle) * directions[0] + torch.sin(f * angle) * directions[1]) / torch.sin(angle)
    found = along * torch.lerp(lengths[0], lengths[1], f)
    return torch.where(f == 0, a, torch.where(f == 1, b, found))


def text_difference(image: Tensor, difference: Tensor, fraction: Tensor) -> Tensor:
    """DALL-E 2's text diffs: the picture's embedding turned towards the difference of two texts' embeddings.

    slerp(z, d, f) with d = normalize(z_t' - z_t) as long as z; f of 0.25 to 0.5 is usual.
    """
    return slerp(image, normalize(difference, dim=0) * image.norm(), fraction)


BLENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "slerp": slerp,
    "lerp": lerp,
    "text difference": text_difference,
}
