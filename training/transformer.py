"""Trains a small flow transformer on scenes: Wan's architecture, the host's own class, on wavelets of the pictures.

The file is an ordinary diffusion model of ComfyUI (Wan 2.2, whose latents have 48 channels): two levels of the
orthonormal wavelet transform fold 4 x 4 x 3 numbers of a picture into them, so 32 x 32 pixels are 8 x 8 tokens. Its
texts are what scenes_clip reads, zeros behind their end, as Wan pads umT5's.

Rectified flow (Liu et al. 2022, arXiv 2209.03003): x = (1 - sigma) x0 + sigma noise, the network says noise - x0; sigma
is the logistic of a normal number (Esser et al. 2024, arXiv 2403.03206, section 3.1).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn

from models.haar import analyse

from .balance import by_quarter
from .loop import Recipe, Run, arguments, train
from .scenes import Scenes
from .text_unet import kept
from .unclip import Clip

LEVELS = 2  # of the wavelet transform
CONFIG = {
    "model_type": "t2v",
    "patch_size": [1, 1, 1],
    "in_dim": 48,
    "out_dim": 48,
    "dim": 80,
    "ffn_dim": 256,
    "num_heads": 2,  # 12 numbers of a head turn by rows and 12 by columns: below that positions are hardly told apart
    "num_layers": 4,
    "freq_dim": 32,
    "text_dim": 64,
}
METADATA = {"config": json.dumps({"transformer": CONFIG}), "text_encoder": "scenes_clip", "image_size": "32"}
SHIPPED = "models/demo/diffusion_models/scenes_transformer.safetensors"
RECIPE = Recipe(images=1_180_000, batch=32, learning_rate=1.5e-3, flat=0.68, seed=50)


def host_network() -> Any:
    """WanModel of the ComfyUI at COMFYUI_PATH, its weights drawn."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    import comfy.model_management
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    comfy.model_management.in_training = True  # kernels with a backward

    network = WanModel(**CONFIG, operations=comfy.ops.disable_weight_init)
    initialise(network)
    return network


@torch.no_grad()
def initialise(network: Any) -> None:
    """As Wan's own code: Xavier for matrices, small numbers for embeddings and modulation, and an output of 0."""
    for name, weight in network.named_parameters():
        if "norm" in name:
            weight.fill_(float(name.endswith("weight")))
        elif name.endswith("bias") or name == "head.head.weight":
            weight.zero_()
        elif "modulation" in name:
            weight.normal_(std=network.dim**-0.5)
        elif "embedding" in name and name != "patch_embedding.weight":
            weight.normal_(std=0.02)
        else:
            nn.init.xavier_uniform_(weight.flatten(1))


class Flow(nn.Module):
    """The network as training calls it; its state is the host's file."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """x [B 48 8 8] -> noise - x0."""
        options = {"optimized_attention_override": attention}
        return self.network(x[:, :, None], 1000 * sigma, context, transformer_options=options)[:, :, 0]

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Tensor]:
        return self.network.state_dict(*args, **options)

    def load_state_dict(self, state: Any, *args: Any, **options: Any) -> Any:
        return self.network.load_state_dict(state, *args, **options)


def attention(function: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    """PyTorch's own, which has gradients."""
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class FlowLoss:
    """Mean square of the velocity's error, over scenes and their captions."""

    def __init__(self, device: str):
        self.clip = Clip(device)

    def __call__(
        self, network: nn.Module, scenes: Scenes, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = folded(scenes.image)
        device = x0.device
        sigma = torch.randn(len(x0), generator=generator, device=device).sigmoid()
        noise = torch.randn(x0.shape, generator=generator, device=device)
        at = sigma[:, None, None, None]
        labels = scenes.attributes.labels()
        with torch.no_grad():
            read = self.clip.read(labels, kept(labels, generator), generator)
        context = read.states * read.mask[..., None]
        said = network((1 - at) * x0 + at * noise, sigma, context)
        mse = (said - (noise - x0)).square().flatten(1).mean(1)
        return mse.mean(), {"mse": mse.mean(), **by_quarter(mse, (sigma * 1000).long().clamp(max=999))}


def folded(image: Tensor) -> Tensor:
    """[B 3 H W] -> [B 48 H/4 W/4]."""
    for _ in range(LEVELS):
        image = analyse(image)
    return image


def main() -> None:
    recipe, given = arguments(SHIPPED, RECIPE)
    torch.manual_seed(recipe.seed)
    train(Run(Flow(host_network()), recipe, given.device, METADATA), FlowLoss(given.device), given)


if __name__ == "__main__":
    main()
