"""Image encoders under the host's memory management: the value of a GUIDANCE_ENCODER socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import comfy.model_management as mm
import torch
from torch import Tensor

from ....models.architecture import Checkpoint, Facts
from ....models.encoder import ImageEncoder
from ....models.schedule import NoiseSchedule
from ..memory import hosted, network_input
from .references import References

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
        self.references = References()
        self.schedule = NoiseSchedule.of(facts)

    @property
    def size(self) -> int:
        return self.facts.image_size

    @property
    def noise_aware(self) -> bool:
        return self.facts.noise_aware

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by before a softmax: a file of CLIP's holds its logarithm."""
        learned = getattr(self.network, "logit_scale", None)
        return float(learned.detach().exp()) if isinstance(learned, Tensor) else self.facts.logit_scale

    def text(self, text: str) -> Tensor:
        """[1 D]. Raises ValueError for texts that the encoder can't read, and where it reads none."""
        if text not in self.texts:
            mm.load_models_gpu([*self.patchers, *self.text_patchers])
            with torch.inference_mode(False), torch.no_grad():
                self.texts[text] = self.read_text(text).float().cpu()
        return self.texts[text]

    def embed(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[B D]."""
        return self.network.embed(*network_input(self.patchers[0], self.schedule, x, sigma)).to(x.device)

    def maps(self, x: Tensor, sigma: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """One [B C h w] a layer."""
        given = network_input(self.patchers[0], self.schedule, x, sigma)
        return [part.to(x.device) for part in self.network.maps(*given, layers)]

    def with_text_of(self, other: Encoder) -> Encoder:
        """The same network with another encoder's text tower."""
        towers = [*other.patchers, *other.text_patchers]
        return Encoder(self.name, self.facts, self.network, self.patchers, other.read_text, towers)


def load_encoder(checkpoint: Checkpoint) -> Encoder:
    """In float32."""

    def build(device: Any) -> torch.nn.Module:
        with torch.device(device):
            network = checkpoint.build()
        state = {key: value.float() if value.is_floating_point() else value for key, value in checkpoint.state.items()}
        network.load_state_dict(state, strict=True)
        return network

    patcher = hosted(build)
    network = cast(ImageEncoder, patcher.model)
    return Encoder(checkpoint.name, checkpoint.facts, network, [patcher], network.embed_text)
