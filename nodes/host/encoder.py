"""Image encoders under the host's memory management: the value of a GUIDANCE_ENCODER socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import comfy.model_management as mm
import torch
from torch import Tensor

from ...guidance.tensors import append_dims
from ...models.architecture import Checkpoint, Facts
from ...models.denoiser import NoiseSchedule
from ...models.encoder import ImageEncoder
from .gradients import WholePatcher, make_differentiable

ReadText = Callable[[str], Tensor]  # text -> [1 D], not normalised


class Encoder:
    """Embeddings and feature maps of pictures, x0 + sigma noise in [-1, 1] where they are clean, and of texts.

    A noise-aware encoder takes noisy pictures of its own size; at sigma 0 it is a clean one.
    """

    def __init__(
        self,
        name: str,
        facts: Facts,
        network: ImageEncoder,
        patchers: Sequence[Any],
        read_text: ReadText,
        text_patchers: Sequence[Any] = (),
    ):
        self.name = name
        self.facts = facts
        self.network = network
        self.patchers = list(patchers)
        self.text_patchers = list(text_patchers)  # needed while a text is read, not while sampling
        self.read_text = read_text
        self.texts: dict[str, Tensor] = {}  # every text once
        self.references: dict[tuple[Any, ...], Any] = {}  # and every reference picture
        self.log_sigmas = NoiseSchedule.of(facts).sigmas.log().float()

    @property
    def size(self) -> int:
        return self.facts.image_size

    @property
    def noise_aware(self) -> bool:
        return self.facts.noise_aware

    def text(self, text: str) -> Tensor:
        """[1 D]. Raises ValueError for texts that the encoder can't read, and where it reads none."""
        if text not in self.texts:
            mm.load_models_gpu([*self.patchers, *self.text_patchers])
            with torch.inference_mode(False), torch.no_grad():
                self.texts[text] = self.read_text(text).float().cpu()
        return self.texts[text]

    def embed(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[B D]."""
        return self.network.embed(*self._told(x, sigma))

    def maps(self, x: Tensor, sigma: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """One [B C h w] a layer."""
        return self.network.maps(*self._told(x, sigma), layers)

    def _told(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """What the network takes: x_t = x / sqrt(1 + sigma^2) and the nearest timestep."""
        if isinstance(self.network, torch.nn.Module):
            make_differentiable(self.network)  # after the host moved it; otherwise nothing to do
        t = (self.log_sigmas.to(sigma)[None] - sigma.log()[:, None]).abs().argmin(1)
        return x / append_dims(1 + sigma**2, x.ndim) ** 0.5, t

    def with_text_of(self, other: Encoder) -> Encoder:
        """The same eyes with another encoder's text tower."""
        towers = [*other.patchers, *other.text_patchers]
        return Encoder(self.name, self.facts, self.network, self.patchers, other.read_text, towers)


def load_encoder(checkpoint: Checkpoint) -> Encoder:
    """Frozen, in float32, outside inference mode: backward costs about one forward and needs no weight gradients."""
    with torch.inference_mode(False), torch.no_grad():
        device, offload = mm.get_torch_device(), mm.unet_offload_device()
        with torch.device(offload):
            network = checkpoint.build()
        state = {key: value.float() if value.is_floating_point() else value for key, value in checkpoint.state.items()}
        network.load_state_dict(state, strict=True)
        network.eval().requires_grad_(False)
        patcher = WholePatcher(network, load_device=device, offload_device=offload)
    encoder = cast(ImageEncoder, network)
    return Encoder(checkpoint.name, checkpoint.facts, encoder, [patcher], encoder.embed_text)
