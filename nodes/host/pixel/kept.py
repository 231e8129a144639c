"""What an inpainting model keeps of a picture: told at every step, and put into every x0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..conditioning import KEPT, for_batch
from ..model import COLOURS


def with_kept(conditioning: list[Any], image: Tensor, keep: Tensor) -> list[Any]:
    """The same with pictures [n 3 H W] in [-1, 1] of which a model keeps what `keep` [n 1 H W] marks by 1."""
    kept = torch.cat([image * keep, keep], 1)
    return [[value, {**extra, KEPT: kept}] for value, extra in conditioning]


def kept_in(given: Mapping[str, Any]) -> Tensor:
    """What inpainting keeps, [B 4 H W]: pictures, 0 where they are free, and the mask. Without any nothing is kept.

    Raises ValueError for pictures of another size than those that are drawn.
    """
    kept, noise = given.get(KEPT), given["noise"]
    if kept is None:
        return noise.new_zeros(len(noise), noise.shape[1] + 1, *noise.shape[2:])
    if kept.shape[2:] != noise.shape[2:]:
        sizes = [f"{shape[3]} x {shape[2]}" for shape in (kept.shape, noise.shape)]
        raise ValueError(
            f"the image of Inpaint Conditioning is {sizes[0]}, and the latent {sizes[1]}; give both one size"
        )
    return for_batch(kept.to(noise), len(noise), "pictures to inpaint")


def paste(arguments: dict[str, Any]) -> Tensor:
    """A post-CFG function: x0 is what inpainting keeps, where it keeps something (GLIDE's inpainting notebook).

    Raises ValueError where the negative keeps something else.
    """
    kept, *others = [_kept(conds) for conds in (arguments["cond"], arguments["uncond"]) if conds]
    if any(not torch.equal(kept, other) for other in others):
        raise ValueError(
            "the positive and the negative keep different pictures or parts; connect the same Inpaint Conditioning to "
            "both, one for each"
        )
    denoised = arguments["denoised"]
    image, mask = kept.to(denoised).split([COLOURS, 1], dim=1)
    return denoised * (1 - mask) + image * mask


def _kept(conds: list[Any]) -> Tensor:
    """Of the first of several conditions, [B 4 H W]."""
    return conds[0]["model_conds"]["c_concat"].cond[:, : COLOURS + 1]
