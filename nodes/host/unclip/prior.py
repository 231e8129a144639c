"""A diffusion prior on the host's device: a loop on vectors, no MODEL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management as mm
import comfy.ops
import comfy.utils
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ....guidance.noise import StepNoise, own_noise
from ....guidance.sampling import fixed_small, respaced, sample_ddpm
from ....guidance.tensors import append_dims
from ....models.architecture import Checkpoint
from ....models.prior import usual_clamp
from ....models.schedule import NoiseSchedule
from ..memory import hosted
from ..pixel.states import Read
from ..pixel.towers import read_clip


@dataclass
class HostPrior:
    """A prior with the statistics of the embeddings that it was trained on."""

    name: str
    width: int
    """Numbers of its embeddings."""
    clamp: float
    """What x0, normalised, is usually clamped to."""
    schedule: NoiseSchedule
    patcher: Any
    mean: Tensor
    std: Tensor

    def embed(
        self, clip: Any, texts: tuple[str, str], seeds: tuple[int, int], steps: int, scale: float, clamp: float
    ) -> tuple[Tensor, Tensor]:
        """Embeddings [n D] of pictures of the first of two texts, away from the second, and their cosines with it [n].

        `seeds` are the first and how many; row i is that of seed + i alone.
        """
        wanted, null = (self._read(clip, text) for text in texts)
        mm.load_models_gpu([self.patcher])
        device, (seed, count) = self.patcher.load_device, seeds
        sigmas = [*reversed(self.schedule.sigmas[respaced(str(steps))].tolist()), 0.0]
        x = own_noise((count, self.width), seed, range(count)).to(device) * (1 + sigmas[0] ** 2) ** 0.5
        noise = StepNoise(x, seed, range(count), sigmas)
        predict = partial(self._predict, [wanted] if scale == 1 else [wanted, null], scale, clamp or self.clamp)
        bar = comfy.utils.ProgressBar(steps)
        report = partial(_step, bar)
        x0 = sample_ddpm(predict, x, sigmas, noise, variance=fixed_small, on_step=report)
        found = (x0.cpu() * self.std + self.mean).to(mm.intermediate_device())
        assert wanted.pooled is not None
        return found, cosine_similarity(found, wanted.pooled.to(found))

    def _read(self, clip: Any, text: str) -> Read:
        """Of as many tokens as the prior reads. Raises ValueError where the text has more."""
        read, context = read_clip(clip, text, self.width), self.patcher.model.config.context
        if read.mask[:, context:].any():
            raise ValueError(f"the text has {int(read.mask.sum())} tokens, and the prior reads {context}; shorten it")
        return Read(read.states[:, :context], read.mask[:, :context], read.pooled)

    def _predict(self, texts: list[Read], scale: float, clamp: float, x: Tensor, sigma: Tensor) -> tuple[Tensor, None]:
        """u + scale (c - u) of the predicted embeddings, clamped (Ho & Salimans 2022 on x0, as published)."""
        scaled, t = x / append_dims(1 + sigma**2, x.ndim) ** 0.5, self.schedule.nearest(sigma)
        found = [self.patcher.model(scaled, t, *_rows(text, x)) for text in texts]
        guided = found[0] if len(found) == 1 else found[1] + scale * (found[0] - found[1])
        return guided.clamp(-clamp, clamp), None


def _rows(text: Read, x: Tensor) -> list[Tensor]:
    """One text for all rows."""
    assert text.pooled is not None
    return [part.to(x.device).expand(len(x), *part.shape[1:]) for part in (text.states, text.pooled, text.mask)]


def _step(bar: Any, *_: Any) -> None:
    mm.throw_exception_if_processing_interrupted()
    bar.update(1)


def load_prior(checkpoint: Checkpoint, statistics: tuple[Tensor, Tensor]) -> HostPrior:
    """Weights as the host would keep them; arithmetic in float32, which vectors cost little in.

    `statistics`: mean and deviation [D] of the embeddings.
    """
    parameters = sum(value.numel() for value in checkpoint.state.values())
    dtype = mm.unet_dtype(mm.get_torch_device(), parameters, [torch.float16, torch.bfloat16, torch.float32])

    def build(device: Any) -> torch.nn.Module:
        network = checkpoint.build(operations=comfy.ops.manual_cast, dtype=dtype, device=device)
        network.load_state_dict(checkpoint.state)
        return network

    made: Callable[[Any], torch.nn.Module] = build
    schedule = NoiseSchedule.of(checkpoint.facts)
    return HostPrior(
        checkpoint.name, checkpoint.config.clip_width, usual_clamp(checkpoint), schedule, hosted(made), *statistics
    )
