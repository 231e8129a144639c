"""The first stages of latent diffusion's checkpoints: a vector-quantised autoencoder, or the host's own of KL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.ldm.modules.diffusionmodules.model as host
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from torch import Tensor, nn

from ....models.ldm import FIRST_STAGE
from ....models.memory import check_memory
from ....models.state_dict import StateDict, count
from ..pictures import vae_around

CODES = "quantize.embedding.weight"  # [K D], of a vector-quantised one
KL = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}  # of KL-f8
KL |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}


@dataclass(frozen=True)
class Shape:
    """What the weights of a vector-quantised autoencoder show."""

    width: int
    mults: tuple[int, ...]
    blocks: int
    channels: int  # of a latent
    codes: int

    @property
    def factor(self) -> int:
        """How many pixels a side of a latent's element is wide."""
        return 2 ** (len(self.mults) - 1)


def shape_of(state: StateDict) -> Shape:
    width = state["encoder.conv_in.weight"].shape[0]
    levels = range(count(state, "encoder.down.{}."))
    mults = tuple(state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] // width for level in levels)
    codes, channels = state[CODES].shape
    return Shape(width, mults, count(state, "encoder.down.0.block.{}."), channels, codes)


class VQ(nn.Module):
    """Pictures [B 3 H W] in [-1, 1] <-> latents [B D h w] (Esser et al. 2021, arXiv 2012.09841).

    Encoding leaves them as they are; decoding takes the nearest code of each element. Gradients pass as if it did not.
    """

    def __init__(self, shape: Shape):
        super().__init__()
        given = {"ch": shape.width, "ch_mult": shape.mults, "num_res_blocks": shape.blocks, "in_channels": 3}
        given |= {"out_ch": 3, "z_channels": shape.channels, "attn_resolutions": [], "resolution": 256}
        self.encoder, self.decoder = host.Encoder(**given, double_z=False), host.Decoder(**given)
        self.quant_conv, self.post_quant_conv = (nn.Conv2d(shape.channels, shape.channels, 1) for _ in range(2))
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(shape.codes, shape.channels)})

    def encode(self, pixels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.quant_conv(self.encoder(pixels))

    def decode(self, samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.decoder(self.post_quant_conv(self.quantised(samples)))

    def quantised(self, samples: Tensor) -> Tensor:
        """The nearest codes by squared distance, [B D h w]."""
        table: Any = self.quantize["embedding"].weight
        flat = samples.detach().movedim(1, -1)
        nearest = torch.cdist(flat.flatten(0, 2).float(), table.float()).argmin(-1)
        codes = table[nearest].view(flat.shape).movedim(-1, 1).to(samples)
        return codes + (samples - samples.detach())


def first_stage(beside: Mapping[str, Tensor], name: str) -> Any:
    """The VAE of a checkpoint. Raises ValueError for an autoencoder of another build."""
    state = {key.removeprefix(FIRST_STAGE): value for key, value in beside.items() if key.startswith(FIRST_STAGE)}
    try:
        with torch.device("meta"):  # what it claims to be has no numbers until its shapes are known to be right
            shape = shape_of(state) if CODES in state else None
            network = AutoencoderKL(ddconfig=KL, embed_dim=4) if shape is None else VQ(shape)
        _check(network.state_dict(), state)
        if shape is None:
            return comfy.sd.VAE(sd=state)  # the host knows it
        with torch.inference_mode(False), torch.no_grad():
            network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
        return vae_around(network, shape.channels, shape.factor)
    except (RuntimeError, LookupError, ValueError, ArithmeticError) as error:
        check_memory(error)
        raise ValueError(
            f"the autoencoder in {name} is built as none that is known here (VQ-f4 and KL-f8 of latent diffusion are)"
        ) from error


def _check(expected: StateDict, state: StateDict) -> None:
    """Raises ValueError for weights that are missing, of another shape or no floating-point numbers."""
    for key, value in expected.items():
        if key not in state or state[key].shape != value.shape or not state[key].is_floating_point():
            raise ValueError(key)
