"""An orthonormal wavelet transform of pictures: a latent space without training, in which white noise stays white."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

BANDS = 4  # average, left-right, top-bottom and diagonal differences of each 2x2 block
# Rows are orthonormal, and the matrix is its own inverse. Columns: the block's pixels row by row.
MATRIX = 0.5 * torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])


def analyse(x: Tensor) -> Tensor:
    """[B C H W] -> [B 4C H/2 W/2], band by band; a band has the C colours."""
    blocks = pixel_unshuffle(x, 2).unflatten(1, (-1, BANDS))
    return torch.einsum("kj,bcjhw->bkchw", MATRIX.to(x), blocks).flatten(1, 2)


def synthesise(z: Tensor) -> Tensor:
    """The inverse of `analyse`."""
    bands = z.unflatten(1, (BANDS, -1))
    return pixel_shuffle(torch.einsum("kj,bkchw->bcjhw", MATRIX.to(z), bands).flatten(1, 2), 2)
