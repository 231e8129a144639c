"""Image encoders under the host's memory management: the value of a GUIDANCE_ENCODER socket."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import comfy.model_management as mm
import torch
from torch import Tensor

from ....models.architecture import Checkpoint, Facts
from ....models.encoder import EMBEDDING, ImageEncoder
from ....models.schedule import NoiseSchedule
from ..memory import halved, hosted, network_input
from .references import References

ReadText = Callable[[str], Tensor]  # text -> [1 D], not normalised
TEXT_BYTES = 2**24  # of main memory, for each encoder


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
        self.texts = References(TEXT_BYTES)  # every text once
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

        def read() -> list[Tensor]:
            mm.load_models_gpu([*self.patchers, *self.text_patchers])
            with torch.inference_mode(False), torch.no_grad():
                return [self.read_text(text).float()]

        return self.texts.get(text, read)[0]

    def text_states(self, text: str) -> tuple[Tensor, Tensor, Tensor]:
        """States [1 N D], embedding [1 D] and mask [1 N] of a text, empty or not. Raises ValueError as `text` does."""
        mm.load_models_gpu(self.patchers)
        with torch.inference_mode(False), torch.no_grad():
            states, pooled, mask = self.network.text_states(text)
        return states.float(), pooled.float(), mask

    def encode(self, x: Tensor, sigma: Tensor | None, names: Collection[str]) -> Mapping[str, Tensor]:
        """Layers and EMBEDDING by name, in one pass; sigma None: x is clean."""
        given = network_input(self.patchers[0], self.schedule, x, sigma)
        return {name: part.to(x) for name, part in self.network.encode(*given, names).items()}

    def embed(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[B D]."""
        return self.encode(x, sigma, [EMBEDDING])[EMBEDDING]

    def maps(self, x: Tensor, sigma: Tensor | None, layers: Sequence[str]) -> list[Tensor]:
        """One [B C h w] a layer."""
        found = self.encode(x, sigma, layers)
        return [found[name] for name in layers]

    def with_text_of(self, other: Encoder) -> Encoder:
        """The same network with another encoder's text tower."""
        towers = [*other.patchers, *other.text_patchers]
        return Encoder(self.name, self.facts, self.network, self.patchers, other.read_text, towers)


def load_encoder(checkpoint: Checkpoint) -> Encoder:
    """In what `halved` chooses."""

    def build(device: Any) -> torch.nn.Module:
        with torch.device(device):
            network = checkpoint.build()
        state = {key: value.float() if value.is_floating_point() else value for key, value in checkpoint.state.items()}
        network.load_state_dict(state, strict=True)
        return halved(network)

    patcher = hosted(build)
    network = cast(ImageEncoder, patcher.model)
    return Encoder(checkpoint.name, checkpoint.facts, network, [patcher], network.embed_text)
