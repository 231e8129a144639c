"""How pictures fade while a MODEL inverts them, as an encoder sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management as mm
import comfy.utils
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ....guidance.asyrp_timing import Fading, perceptual, unit_channels
from ....guidance.views import centred
from ....models.encoder import STYLE
from ....models.lpips.network import LPIPS
from ..guides.encoder import Encoder
from ..inversion import inverted
from ..model import is_flow, is_pixel_model, progress_function
from ..pictures import to_pixels

AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Distance:
    """What distances are measured with: an encoder, or the pixels themselves."""

    encoder: Encoder | None

    @property
    def lpips(self) -> LPIPS | None:
        network = None if self.encoder is None else self.encoder.network
        return network if isinstance(network, LPIPS) else None

    @property
    def name(self) -> str:
        if self.encoder is None:
            return "squared difference of pixels"
        return f"features of {self.encoder.name}" if self.lpips is None else f"LPIPS ({self.lpips.config.net})"

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """Of pictures [B 3 H W] around [-1, 1], at the encoder's size; those of an LPIPS have their weights."""
        if self.encoder is None:
            return [pictures.clamp(-1, 1)]  # predictions at much noise go far beyond, where encoders saturate
        mm.load_models_gpu(self.encoder.patchers)
        size, network = self.encoder.size, self.encoder.network
        pictures = centred(pictures, size, size).to(self.encoder.patchers[0].load_device)
        found = self.encoder.maps(pictures, pictures.new_zeros(len(pictures)), network.usual_layers[STYLE])
        return found if self.lpips is not None else [unit_channels(part) for part in found]

    def cosine(self, source: str, target: str) -> float:
        """cos(E_T(source), E_T(target)); 1 without texts. Raises ValueError where the encoder can't read them."""
        if not source.strip() and not target.strip():
            return 1.0
        if self.encoder is None:
            raise ValueError("texts need an encoder that reads them; connect one, or leave the texts empty")
        return float(cosine_similarity(self.encoder.text(source), self.encoder.text(target)))


@dataclass(frozen=True, eq=False)
class Inversion:
    """How pictures go to noise, and what looks at them on the way."""

    model: Any
    vae: Any
    conditioning: list[Any]
    sigmas: Tensor  # rising
    measure: Distance

    def fading(self, samples: Tensor) -> tuple[Fading, Fading]:
        """Mean distances of P_t and of x_t from x0 at each noise level, over pictures given as latents."""
        bar = comfy.utils.ProgressBar(len(samples))
        totals = torch.zeros(2, len(self.sigmas) - 1)
        for part in samples.split(AT_ONCE):
            mm.throw_exception_if_processing_interrupted()
            totals += self._distances(part)
            bar.update(len(part))
        progress = progress_function(self.model.get_model_object("model_sampling"))
        places = [progress(float(sigma)) for sigma in self.sigmas[:-1]]
        first, second = (totals / len(samples)).tolist()
        return Fading(places, first), Fading(places, second)

    def _distances(self, samples: Tensor) -> Tensor:
        """[2 levels]: of P_t and of x_t, summed over the pictures."""
        flow = is_flow(self.model.get_model_object("model_sampling"))
        pairs: list[tuple[Tensor, Tensor]] = []

        def keep(index: int, denoised: Tensor, x: Tensor, total: int) -> None:
            scale = 1.0 if flow else (1 + float(self.sigmas[index]) ** 2) ** 0.5  # x_t = x / scale
            pairs.append((denoised.cpu(), (x / scale).cpu()))

        inverted(self.model, samples, self.conditioning, self.sigmas, keep)
        wanted = self.measure.maps(self._pictures(samples))
        outside = self.model.model.process_latent_out
        rows: list[list[Tensor]] = []
        for pair in pairs:
            mm.throw_exception_if_processing_interrupted()
            seen = [self.measure.maps(self._pictures(outside(latents))) for latents in pair]
            rows.append([perceptual(maps, wanted).sum().cpu() for maps in seen])
        return torch.tensor(rows).T

    def _pictures(self, latents: Tensor) -> Tensor:
        """Latents as a VAE takes them -> [B 3 H W]; those of pixel models are not clamped, as in Asyrp's code."""
        return (latents if is_pixel_model(self.model) else to_pixels(self.vae.decode(latents))).float().cpu()
