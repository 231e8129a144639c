"""Behind which block of a transformer one direction does most, and in which part of the run.

Found out at noisy pictures of the model itself: every block's own direction is added there once, and what it changes in
the predicted pictures is compared with what the conditions change in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management as mm
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from .....guidance.hspace import brought_about, longest_window
from .....guidance.weight import Weight
from ...model import blocks_of
from ...sampling import sampled
from ..edit import BOTH, Application, Edit
from ..run import applied

LEVELS = 6  # noise levels that are looked at, each in the middle of an equal part of the run
SAMPLES = 4  # pictures that the blocks are tried on
Find = Callable[[int], Edit]  # block -> the direction that is tried behind it


class Looks(comfy.samplers.Sampler):
    """A SAMPLER that steps nowhere: one prediction at each noise level of the same pictures, [levels B ...]."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        scaling = model_wrap.inner_model.model_sampling.noise_scaling
        for sigma in sigmas[:-1]:
            mm.throw_exception_if_processing_interrupted()
            x = scaling(sigma, noise, latent_image, False)
            self.seen.append(model_wrap(x, sigma.expand(len(x)), **extra_args).float().cpu())
        return latent_image


@dataclass(frozen=True)
class Sensitivity:
    """Of every block that was tried: how much its direction does at each noise level."""

    progress: Sequence[float]  # of the levels
    shares: dict[int, list[float]]

    @property
    def block(self) -> int:
        """The one whose direction does most on the average; where one leads away, it counts as doing nothing."""
        return max(self.shares, key=lambda block: sum(max(0.0, share) for share in self.shares[block]))

    @property
    def window(self) -> tuple[float, float]:
        """The part of the run in which it does at least half as much as where it does most."""
        return longest_window(self.shares[self.block])

    def report(self) -> dict[str, Any]:
        start, end = self.window
        rows = {str(block): [round(share, 4) for share in shares] for block, shares in self.shares.items()}
        places = [round(place, 4) for place in self.progress]
        return {
            "block": self.block,
            "start_percent": round(start, 2),
            "end_percent": round(end, 2),
            "progress": places,
            "does": rows,
        }


def sensitivity(model: Any, plain: Any, wanted: Any | None, noise: Tensor, steps: int, find: Find) -> Sensitivity:
    """Of all blocks of a transformer, on the first pictures of `noise`.

    What counts is the share of what the condition `wanted` changes in the predictions under `plain` that the direction
    brings about; without `wanted` how far it changes them, relative to their size.
    """
    noise = noise[:SAMPLES]
    clean = sampled(model, plain, noise, steps)
    sampling = model.get_model_object("model_sampling")
    progress = [(level + 0.5) / LEVELS for level in range(LEVELS)]
    sigmas = torch.tensor([*(float(sampling.percent_to_sigma(place)) for place in progress), 0.0])

    def looks(model: Any, conditioning: Any) -> Tensor:
        sampler = Looks()
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({"positive": conditioning})
        guider.sample(noise, clean, sampler, sigmas, disable_pbar=True, seed=0)
        return torch.stack(sampler.seen)

    before = looks(model, plain)
    target = None if wanted is None else looks(model, wanted) - before
    bar = comfy.utils.ProgressBar(blocks_of(model))
    shares: dict[int, list[float]] = {}
    for block in range(blocks_of(model)):
        job = Application([replace(find(block), block=block)], Weight(1.0), False, BOTH)
        change = looks(applied(model, job), plain) - before
        shares[block] = brought_about(change, before if target is None else target, target is not None)
        bar.update(1)
    return Sensitivity(progress, shares)
