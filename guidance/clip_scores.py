"""What CLIP says of pictures and texts (Radford et al. 2021, arXiv 2103.00020): cosines, classes, an order.

Embeddings are [n D], of unit length where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize


def cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Embeddings [n D] and [m D] of any length -> [n m] in [-1, 1]. Raises ValueError for those of different widths."""
    if images.shape[1] != texts.shape[1]:
        raise ValueError(
            f"its pictures become {images.shape[1]} numbers and its texts {texts.shape[1]}, so the two are not of one "
            "CLIP; connect the text tower of the same CLIP"
        )
    return normalize(images, dim=1) @ normalize(texts, dim=1).T


def class_weights(texts: Tensor) -> Tensor:
    """A class in the words of several templates, [classes templates D] of any length -> [classes D].

    Unit length, mean, and unit length again: the published recipe for an ensemble of prompts.
    """
    return normalize(normalize(texts, dim=-1).mean(1), dim=-1)


def probabilities(cosine: Tensor, logit_scale: float) -> Tensor:
    """softmax over the last axis of logit_scale cosine; logit_scale is about 100 in trained files."""
    return (logit_scale * cosine).softmax(-1)


def best(scores: Tensor, keep: int) -> list[int]:
    """Places of the `keep` largest of [n], the largest first; of equal ones the earlier first."""
    return torch.argsort(scores, descending=True, stable=True)[:keep].tolist()


def filled(templates: Sequence[str], label: str) -> list[str]:
    """A label in each of the templates, at its {}."""
    return [template.replace("{}", label) for template in templates]
