"""Diffusion autoencoders in the host: their semantic encoder and latent prior."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_management as mm
import comfy.utils
import torch
from torch import Tensor

from ....guidance.directions import FITS, Linear, accepted, cross_validated, orthogonal
from ....guidance.latents import moved, normalised, sample_prior
from ....guidance.noise import initial_noise, own_noise
from ....guidance.sampling import respaced, respacing_of
from ....guidance.views import centred
from ....models.architecture import Checkpoint, Facts
from ....models.diffae import DIFFAE, codec_of, statistics_of
from ....models.schedule import NoiseSchedule
from ..memory import hosted
from ..pictures import to_pixels
from .direction import Direction, Semantic

PRIOR_SCHEDULE = "const0.008"
ROUNDS = 200  # candidates for each picture of a few-shot batch
CHANCE = 5  # of the random numbers by which candidates are kept: apart from other noise of the same seed


class Codec:
    """The value of a GUIDANCE_SEMANTIC_CODEC socket."""

    def __init__(self, checkpoint: Checkpoint):
        """Raises ValueError for other models than diffusion autoencoders."""
        if checkpoint.architecture.id != DIFFAE.id:
            raise ValueError(
                f"{checkpoint.name} is {checkpoint.architecture.title}, {DIFFAE.title} is needed; use Load Guidance "
                "Model for it"
            )
        if not checkpoint.config.encoder_mult:
            raise ValueError(
                f"{checkpoint.name} is the decoder of a diffusion autoencoder alone, without the encoder that reads "
                "pictures; use Load Guidance Model for it"
            )
        self.name = checkpoint.name
        self.facts: Facts = checkpoint.facts
        self.patcher = hosted(lambda device: codec_of(checkpoint).to(device))
        self.network: Any = self.patcher.model
        with torch.inference_mode(False), torch.no_grad():
            self.mean, self.std = statistics_of(checkpoint) or (None, None)
            weight = checkpoint.state["encoder.out.3.weight"].float().contiguous()
            self.fingerprint = hashlib.sha256(weight.numpy().tobytes()).hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        return self.patcher.load_device

    def encode(self, image: Tensor) -> Semantic:
        """z_sem of IMAGEs: their middle, at the size that the encoder was trained on."""
        pictures = centred(to_pixels(image).float(), self.facts.image_size, self.facts.image_size)
        mm.load_models_gpu([self.patcher])
        codes: list[Tensor] = []
        bar = comfy.utils.ProgressBar(len(pictures))
        for part in pictures.split(16):
            mm.throw_exception_if_processing_interrupted()
            codes.append(self.network.encoder(part.to(self.device)).float().cpu())
            bar.update(len(part))
        return self.semantic(torch.cat(codes))

    def semantic(self, z_sem: Tensor) -> Semantic:
        return Semantic(z_sem, self.name, self.fingerprint, self.facts.image_size)

    def check(self, value: Semantic | Direction) -> None:
        """Raises ValueError for codes and directions of another autoencoder."""
        width = (value.z_sem if isinstance(value, Semantic) else value.line.weight).shape[-1]
        known = not value.fingerprint or value.fingerprint == self.fingerprint
        if not known or width != self.facts.semantic:
            owner = value.owner or f"an autoencoder with {width} numbers"
            raise ValueError(
                f"it was made with {owner}, and codec is {self.name} ({self.facts.semantic} numbers); use both of one "
                "file"
            )

    def statistics(self, direction: Direction | None = None) -> tuple[Tensor, Tensor]:
        """Mean and deviation of z_sem. Raises ValueError where no file has them."""
        for mean, std in ((self.mean, self.std), (direction and direction.mean, direction and direction.std)):
            if mean is not None and std is not None:
                return mean, std
        raise ValueError(
            f"{self.name} holds no mean and deviation of z_sem; use a file with latent prior, a published attribute "
            "classifier, or Fit Semantic Direction, which measure them"
        )

    def move(self, semantic: Semantic, direction: Direction, amount: float) -> Semantic:
        mean, std = self.statistics(direction)
        return replace(semantic, z_sem=moved(semantic.z_sem, direction.line.weight, amount, mean, std))

    def fit(
        self, positive: Tensor, negative: Tensor, method: str, others: Direction | None
    ) -> tuple[Direction, dict[str, Any]]:
        """A direction from two sets of IMAGEs, and a report on it. Raises ValueError for sets of fewer than two."""
        if min(len(positive), len(negative)) < 2:
            raise ValueError(
                f"at least 2 pictures on each side are needed, there are {len(positive)} and {len(negative)}; 50 are "
                "good"
            )
        sets = [self.encode(image).z_sem for image in (positive, negative)]
        mean, std = self.mean, self.std
        if mean is None or std is None:
            both = torch.cat(sets)
            mean, std = both.mean(0), both.std(0).clamp(min=1e-6)
        codes = [normalised(part, mean, std) for part in sets]
        accuracy = cross_validated(method, *codes)
        line = FITS[method](*codes)
        report: dict[str, Any] = {"method": method, "positive": len(positive), "negative": len(negative)}
        report["cross_validated_accuracy"] = round(accuracy, 4)
        if others is not None:
            self.check(others)
            report["cosine_with_other"] = round(_cosine(line.weight, others.line.weight), 4)
            line = _centred_line(orthogonal(line.weight, others.line.weight[None]), codes)
        own = self.mean is None
        found = Direction(
            line,
            "fitted",
            method,
            mean if own else None,
            std if own else None,
            self.fingerprint,
            self.name,
        )
        return found, report

    def sample(
        self, seed: int, count: int, steps: int, direction: Direction | None, threshold: float
    ) -> tuple[Semantic, dict[str, Any]]:
        """New codes from the latent prior; with a direction only those of its kind, each kept with its probability.

        Code i depends on seed + i alone. Raises ValueError for files without a prior, and where nothing of the kind is
        found in 200 candidates a code.
        """
        if self.facts.semantic and not hasattr(self.network, "latent_net"):
            raise ValueError(f"{self.name} has no latent prior; use a file with one (its name often says latent)")
        mean, std = self.statistics(direction)
        mm.load_models_gpu([self.patcher])
        kept: dict[int, Tensor] = {}
        drawn = 0
        for turn in range(ROUNDS if direction is not None else 1):
            waiting = [k for k in range(count) if k not in kept]
            if not waiting:
                break
            codes = self._candidates(seed + 1_000_003 * turn, waiting, steps)
            drawn += len(codes)
            fits = (
                [True] * len(codes)
                if direction is None
                else self._fit(codes, direction, threshold, seed, waiting, turn)
            )
            kept |= {k: code for k, code, fit in zip(waiting, codes, fits, strict=True) if fit}
        report = {"drawn": drawn, "accepted": len(kept), "acceptance_rate": round(len(kept) / drawn, 4)}
        if len(kept) < count:
            raise ValueError(
                f"of {drawn} sampled codes {len(kept)} were kept as having the attribute with a probability of at "
                f"least {threshold:g}, {count} are needed; lower threshold"
            )
        codes = torch.stack([kept[k] for k in range(count)])
        return self.semantic(codes * std + mean), report

    def _fit(
        self, codes: Tensor, direction: Direction, threshold: float, seed: int, indices: list[int], turn: int
    ) -> list[bool]:
        """Which candidates have the attribute, by chance."""
        uniform = torch.special.ndtr(own_noise([len(codes), 1], seed, indices, CHANCE, turn)[:, 0])
        return accepted(direction.line.log_odds(codes).sigmoid(), uniform, threshold).tolist()

    def _candidates(self, seed: int, indices: list[int], steps: int) -> Tensor:
        """Normalised codes [n D], by DDIM on the prior."""
        noise = initial_noise(torch.Size([len(indices), self.facts.semantic]), seed, indices).to(self.device)
        schedule = NoiseSchedule.named(PRIOR_SCHEDULE)
        bar = comfy.utils.ProgressBar(steps)

        def step(index: int) -> None:
            mm.throw_exception_if_processing_interrupted()
            bar.update(1)

        eps: Callable[[Tensor, Tensor], Tensor] = self.network.latent_net
        return sample_prior(eps, noise, respaced(respacing_of(steps)), schedule.sigmas, step).cpu()


def _cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0).item()


def _centred_line(weight: Tensor, codes: list[Tensor]) -> Linear:
    """A line whose border stands midway between the two sets."""
    return Linear(weight, -float(sum(part.mean(0) @ weight for part in codes) / len(codes)))
