"""Trains a U-Net with a meaningful bottleneck out of the shipped one: its lowest skips are closed.

In the shipped U-Net the skips of 4 x 4 and 8 x 8 carry nearly everything: h can be exchanged between two samples, and
their pictures stay. So there is no h-space to edit. Here the weights that read those skips are 0 and stay 0: what is
global (colour, background, which shape) has to come through h. The architecture, and so the file, is ADM's as before.
"""

from __future__ import annotations

from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.adm.network import ResBlock, UNet
from models.schedule import NoiseSchedule

from .loop import Recipe, Run, arguments, train
from .unet import CONFIG, METADATA, SHIPPED, HybridLoss

RECIPE = Recipe(images=400_000, batch=32, learning_rate=1e-3, seed=10)
OUT = "models/demo/models/scenes_hspace.safetensors"
CLOSED = 4  # of the output blocks, from the bottleneck up: those at 4 x 4 and 8 x 8


def close_skips(network: UNet) -> None:
    """Zero weights for the skips of the first CLOSED output blocks, whose gradients are 0 from now on.

    The network lies on the device that it is trained on.
    """
    h = int(network.config.model_channels * network.config.channel_mult[-1])
    for block in list(network.output_blocks)[:CLOSED]:
        first = cast(nn.Sequential, block)[0]
        assert isinstance(first, ResBlock)
        convolution, skip = cast(nn.Conv2d, first.in_layers[2]), cast(nn.Conv2d, first.skip_connection)
        close(convolution.weight, h)
        close(skip.weight, h)
        h = convolution.out_channels


def close(weight: Tensor, first: int) -> None:
    """Weights [out in ...] of the inputs from `first` on become 0 for good."""
    with torch.no_grad():
        weight[:, first:] = 0
    open_inputs = torch.ones_like(weight)
    open_inputs[:, first:] = 0
    weight.register_hook(lambda grad: grad * open_inputs)


def main() -> None:
    recipe, given = arguments(OUT, RECIPE)
    torch.manual_seed(recipe.seed)
    network = UNet(CONFIG)
    network.load_state_dict({key: value.float() for key, value in load_file(SHIPPED).items()})
    close_skips(network.to(given.device))
    loss = HybridLoss(NoiseSchedule.named("linear"), given.device)
    train(Run(network, recipe, given.device, METADATA), loss, given)


if __name__ == "__main__":
    main()
