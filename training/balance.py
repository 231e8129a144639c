"""How much each noise level counts in an eps-MSE, and what to report of it."""

from __future__ import annotations

import torch
from torch import Tensor


class Balance:
    """Half of the eps-MSE divided by its own running mean at about the same t; the mean stays about the same.

    Left alone, the little noise (t < 100) makes nearly all of the gradient, while shapes and colours are decided where
    the noise is strong.
    """

    BUCKETS = 50

    def __init__(self, steps: int, device: str, most: float = 20):
        """A level counts at most `most` times its share in the plain eps-MSE."""
        self.steps, self.most = steps, most
        self.typical = torch.ones(self.BUCKETS, device=device)  # running mean of the MSE in each range of t
        self.seen = [0] * self.BUCKETS

    def __call__(self, mse: Tensor, t: Tensor) -> Tensor:
        """[B], [B] -> [B]."""
        bucket = t * self.BUCKETS // self.steps
        for index, value in zip(bucket.tolist(), mse.detach(), strict=True):
            self.seen[index] += 1
            self.typical[index].lerp_(value, max(0.02, 1 / self.seen[index]))
        relative = (self.typical.mean() / self.typical[bucket]).clamp(max=self.most)
        return mse * (0.5 + 0.5 * relative)


def by_quarter(mse: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Mean of the MSE [B] in each quarter of 1000 steps, t [B]."""
    report: dict[str, Tensor] = {}
    for start in range(0, 1000, 250):
        members = (t >= start) & (t < start + 250)
        report[f"mse_{start}"] = (mse * members).sum() / members.sum().clamp(min=1)
    return report
