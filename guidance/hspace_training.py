"""Losses that train an edit of h-space by two texts (Kwon et al. 2022, Asyrp, arXiv 2210.10960, section 3.2).

P is the predicted x0. P~, predicted from the edited h, shall differ from a picture without the edit as the target text
differs from the source text, in an encoder's space (StyleGAN-NADA's directional loss), and otherwise stay P.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

NOTHING = 1e-2


def text_direction(source: Tensor, target: Tensor) -> Tensor:
    """Embeddings [1 D] of two texts -> delta T of length 1. Raises ValueError for texts that read the same."""
    apart = normalize(target.float(), dim=1) - normalize(source.float(), dim=1)
    if float(apart.norm()) < 1e-4:
        raise ValueError("source and target text mean the same to this encoder; name what shall change")
    return normalize(apart, dim=1)


def directional(edited: Tensor, picture: Tensor, delta_text: Tensor) -> Tensor:
    """1 - cos(E(P~) - E(picture), delta T), [B D] x 2 and [1 D] -> [B] in [0, 2]. E has length 1.

    A difference shorter than NOTHING counts as that long: an edit of 0, where training begins, has a finite gradient.
    """
    apart = normalize(edited.float(), dim=1) - normalize(picture.float(), dim=1)
    return 1 - cosine_similarity(apart, delta_text, dim=1, eps=NOTHING)


def as_in_the_paper(l_dir: Tensor) -> Tensor:
    """L_direction (eq. 8): the picture it is measured from is P, the prediction of the same step without the edit."""
    return l_dir


def as_in_the_code(l_dir: Tensor) -> Tensor:
    """-log((2 - L_direction) / 2), and the picture is the clean x0 of the run without the edit."""
    return -((2 - l_dir) / 2).clamp(min=1e-6).log()


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"paper": as_in_the_paper, "code": as_in_the_code}


def reconstruction(edited: Tensor, plain: Tensor) -> Tensor:
    """Mean |P~ - P|, [B ...] x 2 -> [B]."""
    return (edited - plain).abs().flatten(1).mean(1)
