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
    SLOWEST = 0.02  # a new value's share of the running mean, after 50 values

    def __init__(self, steps: int, device: str, most: float = 20):
        """A level counts at most `most` times its share in the plain eps-MSE."""
        self.steps, self.most = steps, most
        self.typical = torch.ones(self.BUCKETS, device=device)  # running mean of the MSE in each range of t
        self.seen = torch.zeros(self.BUCKETS, dtype=torch.long, device=device)

    def __call__(self, mse: Tensor, t: Tensor) -> Tensor:
        """[B], [B] -> [B]."""
        bucket = t * self.BUCKETS // self.steps
        self.update(mse.detach(), bucket)
        relative = (self.typical.mean() / self.typical[bucket]).clamp(max=self.most)
        return mse * (0.5 + 0.5 * relative)

    def update(self, values: Tensor, bucket: Tensor) -> None:
        """Goes on as if the values [B] came one after another, m <- m + w (value - m) with w = max(.02, 1 / seen).

        All at once: a value's part in the new mean is its w times the product of 1 - w of those that come after it.
        """
        member = bucket[:, None] == torch.arange(self.BUCKETS, device=bucket.device)  # [B buckets]
        count = (self.seen + member.cumsum(0)).clamp(min=1).double()
        share = (1 / count).clamp(min=self.SLOWEST) * member
        kept = (1 - share).flip(0).cumprod(0).flip(0)  # of what stood before a value
        after = torch.cat([kept[1:], torch.ones_like(kept[:1])])
        self.typical.copy_(self.typical * kept[0] + (share * after * values[:, None]).sum(0))
        self.seen += member.sum(0)


def by_quarter(mse: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Mean of the MSE [B] in each quarter of 1000 steps, t [B]."""
    report: dict[str, Tensor] = {}
    for start in range(0, 1000, 250):
        members = (t >= start) & (t < start + 250)
        report[f"mse_{start}"] = (mse * members).sum() / members.sum().clamp(min=1)
    return report
