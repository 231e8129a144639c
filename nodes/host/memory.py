"""Networks of ours under the host's management: loaded whole, on their own device, told the nearest timestep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ...guidance.tensors import append_dims
from ...models.architecture import Checkpoint
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


def hosted_small(checkpoint: Checkpoint) -> WholePatcher:
    """A file's small network, computing in float32 on its own device."""

    def build(device: Any) -> nn.Module:
        with torch.device(device):
            network = checkpoint.build()
        network.load_state_dict({key: value.float() for key, value in checkpoint.state.items()}, strict=True)
        return network

    return hosted(build)


def halved(network: nn.Module) -> nn.Module:
    """A guide's network in bfloat16 where the host would compute in it, else as it is, in float32.

    Small gradients vanish in float16: the style guide of a noise-aware encoder has none left. Batch norms, which are
    statistics of whole data sets, and buffers stay in float32.
    """
    dtype = mm.unet_dtype(mm.get_torch_device(), 0, [torch.bfloat16, torch.float32])
    if dtype != torch.bfloat16 or not getattr(network, "bears_half", True):
        return network
    for part in network.modules():
        if not isinstance(part, nn.BatchNorm2d):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return network


def network_input(patcher: Any, schedule: NoiseSchedule, x: Tensor, sigma: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a network trained on a chain takes, on its own device: x_t = x / sqrt(1 + sigma^2), the nearest timestep.

    x [B ...] = x0 + sigma noise, sigma [B], None where x is clean. Gradients pass through the change of device.
    """
    if isinstance(patcher, WholePatcher):
        make_differentiable(patcher.model)  # after the host moved it; otherwise nothing to do
    x = x.to(patcher.load_device)
    if sigma is None:
        return x, torch.zeros(len(x), dtype=torch.long, device=x.device)  # the schedule's least noise
    sigma = sigma.to(patcher.load_device)
    return x / append_dims(1 + sigma**2, x.ndim) ** 0.5, schedule.nearest(sigma)
