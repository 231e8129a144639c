"""Networks of ours under the host's management: loaded whole, on their own device, told the nearest timestep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ...guidance.tensors import append_dims
from ...models.schedule import NoiseSchedule
from .gradients import make_differentiable


class WholePatcher(comfy.model_patcher.ModelPatcher):
    """For small networks of plain layers: loaded whole or not at all, as autograd can't wait for streamed layers."""

    def load(
        self,
        device_to: Any = None,
        lowvram_model_memory: int = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
    ) -> None:
        super().load(device_to, lowvram_model_memory, force_patch_weights, full_load=True)

    def partially_unload(self, *args: Any, **kwargs: Any) -> int:
        return 0  # then the host takes it away as a whole


def hosted(build: Callable[[Any], nn.Module]) -> WholePatcher:
    """A frozen network for the host to load; `build` makes it on the device it is told.

    Outside inference mode, so that gradients may pass: backward costs about one forward and needs no weight gradients.
    """
    with torch.inference_mode(False), torch.no_grad():
        device, offload = mm.get_torch_device(), mm.unet_offload_device()
        network = build(offload).eval().requires_grad_(False)
        return WholePatcher(network, load_device=device, offload_device=offload)


def network_input(patcher: Any, schedule: NoiseSchedule, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """What a network trained on a chain takes, on its own device: x_t = x / sqrt(1 + sigma^2), the nearest timestep.

    x [B ...] = x0 + sigma noise, sigma [B]; 0 is clean. Gradients pass through the change of device.
    """
    if isinstance(patcher, WholePatcher):
        make_differentiable(patcher.model)  # after the host moved it; otherwise nothing to do
    x, sigma = x.to(patcher.load_device), sigma.to(patcher.load_device)
    return x / append_dims(1 + sigma**2, x.ndim) ** 0.5, schedule.nearest(sigma)
