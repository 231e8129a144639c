"""Which pictures a costly score looks at, and the order that a cheap and a costly score give together."""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNSEEN = -math.inf  # the costly score of a pair that it didn't look at


def asked(first: Tensor, best: int) -> tuple[Tensor, Tensor]:
    """Pairs (picture, sentence) of cheap scores [n m] that the costly score looks at: the `best` pictures of each
    sentence, all where there are fewer. Two [p]."""
    rows = first.argsort(dim=0, descending=True, stable=True)[:best]
    columns = torch.arange(first.shape[1], device=first.device).expand_as(rows)
    return rows.flatten(), columns.flatten()


def order(first: Tensor, whole: Tensor) -> list[int]:
    """Pictures of one sentence, the best first: those that the costly score [n] saw by it, then the rest by the cheap
    one [n]. Of equal ones the earlier first."""
    by_first = first.argsort(descending=True, stable=True)
    seen = by_first[whole[by_first] > UNSEEN].sort().values
    rest = by_first[whole[by_first] == UNSEEN]
    return [*seen[whole[seen].argsort(descending=True, stable=True)].tolist(), *rest.tolist()]


def ranks(scores: Tensor, right: Tensor) -> Tensor:
    """Where the best right candidate of each query stands, from 0: [q] of scores [q c] and `right` [q c] bool."""
    best = scores.masked_fill(~right, UNSEEN).amax(1, keepdim=True)
    return ((scores > best) & ~right).sum(1)


def recalls(found: Tensor) -> dict[str, float]:
    """As SAEM reports them: percent of ranks [q] below 1, 5 and 10, the median's floor and the mean, both from 1."""
    within = {f"recall@{k}": 100 * float((found < k).double().mean()) for k in (1, 5, 10)}
    middle = math.floor(float(found.double().quantile(0.5))) + 1
    return {**within, "median_rank": float(middle), "mean_rank": float(found.double().mean()) + 1}
