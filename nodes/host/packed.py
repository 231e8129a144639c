"""Several latents that the host samples as one, video and sound: guides see the first, which a decoder shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import comfy.utils
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """How the samples of a run are packed: [B 1 N] by their shapes. Without shapes, or with one, they are not."""

    shapes: Sequence[torch.Size] = ()

    def first(self, x: Tensor) -> Tensor:
        """What guides see of samples: the first latent, [B C T h w]; a single one as it is."""
        return comfy.utils.unpack_latents(x, self.shapes)[0]

    def whole(self, first: Tensor, x: Tensor) -> Tensor:
        """Samples x with another first latent."""
        if len(self.shapes) < 2:
            return first
        return comfy.utils.pack_latents([first, *comfy.utils.unpack_latents(x, self.shapes)[1:]])[0]
