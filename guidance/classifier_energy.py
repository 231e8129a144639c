"""Classifier guidance (Dhariwal & Nichol 2021, arXiv 2105.05233) as an energy: -log p(y | x, sigma)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NO_CLASS = -1  # label of an image that is not to be guided

Logits = Callable[[Tensor, Tensor], Tensor]  # (x = x0 + sigma noise, sigma [B]) -> [B classes]


def log_probability(logits: Tensor, labels: Tensor, groups: Sequence[int]) -> Tensor:
    """log p(label) [B] of logits [B classes], the softmax taken over the label's own group of classes; 0 for no class.

    `groups` are the sizes of consecutive groups: one of all classes for a usual classifier, one for each
    attribute for a classifier with several heads.
    """
    chosen, logits = labels.clamp(min=0), logits.float()
    rivals = logits
    if len(groups) > 1:
        owners = [number for number, size in enumerate(groups) for _ in range(size)]
        group = torch.tensor(owners).to(labels.device, non_blocking=True)
        rivals = logits.masked_fill(group[chosen][:, None] != group[None, :], -torch.inf)
    value = logits.gather(1, chosen[:, None])[:, 0] - rivals.logsumexp(1)
    return torch.where(labels >= 0, value, torch.zeros_like(value))


@dataclass(frozen=True)
class ClassifierEnergy:
    """-log p(y | x, sigma), [B]. Its negative gradient is the term that guidance adds to the score."""

    logits: Logits
    labels: Tensor  # [B] long, NO_CLASS for none
    groups: tuple[int, ...]

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return -log_probability(self.logits(x, sigma), self.labels.to(x.device, non_blocking=True), self.groups)
