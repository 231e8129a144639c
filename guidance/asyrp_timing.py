"""Where Asyrp's phases begin, from how a picture fades on its way to noise (Kwon et al. 2022, arXiv 2210.10960).

P_t is the predicted x0. t_edit is the smallest t with LPIPS(x0, P_t) >= 0.33 cos(E_T(source), E_T(target)), t_boost the
smallest with LPIPS(x0, x_t) >= 1.2, both averaged over pictures; LPIPS is AlexNet's.

Other distances have other sizes. There a threshold is a share of the largest distance over the run. In the five tables
that Asyrp's code ships, 0.33 is 0.25 to 0.34 of the largest LPIPS(x0, P_t), 1.2 is 0.80 to 0.90 of the largest
LPIPS(x0, x_t); the shares here are the means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

EDIT, BOOST = 0.33, 1.2  # LPIPS
EDIT_SHARE, BOOST_SHARE = 0.28, 0.85  # of the largest distance
EDIT_PERCENT, BOOST_PERCENT = 0.5, 0.8  # the fallbacks of Asyrp's README, t_edit 500 and t_boost 200

Maps = Sequence[Tensor]  # one [B C h w] a layer


def unit_channels(maps: Tensor) -> Tensor:
    """Features [B C h w] of length 1 at each place, as LPIPS compares them."""
    return maps / (maps.norm(dim=1, keepdim=True) + 1e-10)


def perceptual(found: Maps, wanted: Maps) -> Tensor:
    """Sum over layers of the mean over places of |F - F'|^2, [B] (Zhang et al. 2018, LPIPS, 1801.03924, eq. 1)."""
    layers = [(f.float() - w.float()).square().sum(1).flatten(1).mean(1) for f, w in zip(found, wanted, strict=True)]
    return sum(layers[1:], layers[0])


@dataclass(frozen=True)
class Fading:
    """A distance from x0 on the way from the picture to noise: falling progress, and the distance there."""

    progress: Sequence[float]
    distance: Sequence[float]

    def reaches(self, threshold: float) -> float | None:
        """Progress where the distance is first the threshold, on straight lines between levels; None if it never is."""
        before: tuple[float, float] | None = None
        for place, value in zip(self.progress, self.distance, strict=True):
            if value >= threshold:
                if before is None:
                    return place
                share = (threshold - before[1]) / (value - before[1])
                return before[0] + share * (place - before[0])
            before = place, value
        return None
