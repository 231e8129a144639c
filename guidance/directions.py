"""Directions of attributes in z_sem space: found from two sets of codes, measured, and made independent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

FOLDS = 5
PENALTY = 1e-2  # of the squared weights, for codes of deviation 1


@dataclass(frozen=True)
class Linear:
    """log odds of the attribute = z @ weight + bias, for normalised codes z [B D]."""

    weight: Tensor  # [D]
    bias: float = 0.0

    def log_odds(self, z: Tensor) -> Tensor:
        return z @ self.weight.to(z) + self.bias


def accepted(probability: Tensor, uniform: Tensor, least: float = 0.0) -> Tensor:
    """Which codes are kept, [n] bool: each with the probability of its attribute, [n], and none below the `least`.

    Codes of p(z) that are kept where uniform < p(y | z) are codes of p(z | y) (Preechakul et al. 2022, arXiv
    2111.15640, few-shot generation: rejection by the classifier); `uniform` [n] in [0, 1) belongs to each of them.
    """
    return (probability >= least) & (uniform < probability)


def fit_logistic(positive: Tensor, negative: Tensor) -> Linear:
    """Regularised logistic regression of normalised codes [n D], [m D]; both sets count the same."""
    z = torch.cat([positive, negative]).double()
    y = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).double()
    balance = torch.where(y == 1, len(z) / (2 * len(positive)), len(z) / (2 * len(negative)))
    with torch.inference_mode(False), torch.enable_grad():
        z, y, balance = z.clone(), y.clone(), balance.clone()
        weight = torch.zeros(z.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = binary_cross_entropy_with_logits(z @ weight + bias, y, weight=balance)
            value = value + PENALTY * weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)  # pyright: ignore
    return Linear(weight.detach().float(), bias.detach().item())


def difference_of_means(positive: Tensor, negative: Tensor) -> Linear:
    """The line from one mean to the other; the border stands in the middle."""
    weight = positive.mean(0) - negative.mean(0)
    return Linear(weight, -float((positive.mean(0) + negative.mean(0)) @ weight / 2))


FITS = {"logistic": fit_logistic, "mean difference": difference_of_means}


def cross_validated(method: str, positive: Tensor, negative: Tensor) -> float:
    """Mean of both sets' accuracies on codes that were left out of the fit, over up to five folds."""
    folds = min(FOLDS, len(positive), len(negative))
    right = [0.0, 0.0]
    for fold in range(folds):
        kept = [_split(part, fold, folds) for part in (positive, negative)]
        line = FITS[method](kept[0][0], kept[1][0])
        right[0] += (line.log_odds(kept[0][1]) > 0).sum().item() / len(positive)
        right[1] += (line.log_odds(kept[1][1]) <= 0).sum().item() / len(negative)
    return sum(right) / 2


def _split(codes: Tensor, fold: int, folds: int) -> tuple[Tensor, Tensor]:
    """(those to fit with, those left out)."""
    out = torch.arange(len(codes)) % folds == fold
    return codes[~out], codes[out]


def orthogonal(weight: Tensor, others: Tensor) -> Tensor:
    """weight [D] without its parts along others [n D]. Raises ValueError where nothing is left."""
    _, sizes, rows = torch.linalg.svd(others.double(), full_matrices=False)
    basis = rows[sizes > 1e-9 * sizes.max()].T if sizes.max() > 0 else rows[:0].T
    left = weight.double() - basis @ (basis.T @ weight.double())
    if left.norm() < 1e-3 * weight.double().norm():
        raise ValueError("the direction lies within those it should be orthogonal to; nothing would be left of it")
    return left.to(weight)
