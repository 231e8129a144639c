"""What every image encoder of the pack can be asked, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

EMBEDDING = "embedding"  # a feature's name: [B D], behind all layers
# What layers a guide looks at where the user names none.
STYLE, DIFFERENCE, SELF_SIMILARITY = "style", "difference", "self-similarity"


class NoTextsError(ValueError):
    """An encoder that reads no texts was given one."""


class ImageEncoder(ABC):
    """Pictures [B 3 H W] in [-1, 1], of the encoder's own size; t [B] is the noise level of noise-aware networks,
    which take x_t, and means nothing to the others. Raises ValueError for what an encoder hasn't got."""

    bears_half = True  # whether directions keep their angle where it is computed in bfloat16

    @property
    @abstractmethod
    def layers(self) -> Sequence[str]:
        """Names of its feature maps, from shallow to deep."""

    @property
    @abstractmethod
    def usual_layers(self) -> Mapping[str, Sequence[str]]:
        """By purpose: STYLE, DIFFERENCE, SELF_SIMILARITY."""

    @abstractmethod
    def encode(self, x: Tensor, t: Tensor, names: Collection[str]) -> Mapping[str, Tensor]:
        """Layers and EMBEDDING by name, in one pass; nothing behind the last of them is computed."""

    @abstractmethod
    def embed_text(self, text: str) -> Tensor:
        """[1 D] in the space of `embed`, not normalised. Raises NoTextsError where there is no text tower."""

    def embed_words(self, text: str) -> Tensor:
        """[w D]: states of each word or token, behind the text tower's last norm. Raises ValueError as `embed_text`."""
        raise NoTextsError("this encoder has no text tower that tells of single words")

    def text_states(self, text: str) -> tuple[Tensor, Tensor, Tensor]:
        """States [1 N D] of a text, its embedding [1 D], and which states are seen [1 N] bool, for networks that draw.

        An empty text is one too. Raises ValueError where there is no text tower that tells of them.
        """
        raise NoTextsError("this encoder tells no other network what it reads; connect Load CLIP")

    def maps(self, x: Tensor, t: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """One [B C h w] a layer."""
        found = self.encode(x, t, layers)
        return [found[name] for name in layers]

    def embed(self, x: Tensor, t: Tensor) -> Tensor:
        """[B D], not normalised."""
        return self.encode(x, t, [EMBEDDING])[EMBEDDING]


def chosen_layers(names: str, encoder: ImageEncoder, purpose: str) -> list[str]:
    """Layers as people write them, "relu1_1, relu2_1"; empty: the encoder's usual ones for the purpose.

    Raises ValueError for a layer that does not exist, with those that do.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in encoder.layers:
            raise ValueError(f"there is no layer {name!r} in this encoder; there are: {', '.join(encoder.layers)}")
    return wanted or list(encoder.usual_layers[purpose])
