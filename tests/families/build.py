"""A family of the host at tiny width, with random weights, as a MODEL and what it is told."""

from dataclasses import dataclass
from typing import Any

import torch
from hosts import hosts_own

from .configs import PIXELS, SIDE, TOKENS
from .table import FAMILIES


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fill(module, unused=""):
    """Random weights, which the host's layers leave uninitialised. Large ones repeat the same numbers."""
    for index, (name, entry) in enumerate(module.state_dict().items()):
        if not entry.is_floating_point() or (unused and name.startswith(unused)):
            continue
        few = random(min(entry.numel(), 2**16 + 1), seed=index)
        numbers = few.repeat(entry.numel() // len(few) + 1)[: entry.numel()].reshape(entry.shape)
        if entry.ndim > 1:
            entry.copy_(numbers / entry[0].numel() ** 0.5)
        else:
            entry.copy_(numbers * 0.1 + (0.0 if "bias" in name else 1.0))


@dataclass
class Built:
    """A MODEL, the shapes of what it samples, and three CONDITIONINGs."""

    model: Any
    shape: tuple[tuple[int, ...], ...]  # of each latent that is sampled, most often one
    conds: list[Any]


def built(name, **more):
    """The family of a class, as a loader node of the host makes it; `more`: other numbers of its network."""
    import comfy.model_patcher

    family = FAMILIES[name]
    kind = hosts_own("comfy.supported_models", name)
    with torch.inference_mode():
        numbers = taken(name, family.config) | more
        config = kind({**kind.unet_config, **numbers})
        config.unet_config.update(numbers)  # over what the class fixes
        config.set_inference_dtype(torch.float32, None)
        network = config.get_model({key: value.clone() for key, value in family.state.items()}, "", device=None)
        fill(network.diffusion_model, family.unused)
        cpu = torch.device("cpu")
        model = comfy.model_patcher.CoreModelPatcher(network, load_device=cpu, offload_device=cpu)
        shapes = family.shapes or (sample_shape(family, model),)
        return Built(model, shapes, conditions(family, shapes[0]))


def taken(name, config):
    """Numbers without a switch that is off, and that hosts before 0.24 have not."""
    if name != "ChromaRadiance":
        return config
    from comfy.ldm.chroma_radiance.model import ChromaRadianceParams

    late = {"use_sequential_txt_ids"} - set(ChromaRadianceParams.__dataclass_fields__)
    return {key: value for key, value in config.items() if key not in late}


def sample_shape(family, model):
    """Of an empty LATENT: [1 C h w], or [1 C T h w] of videos."""
    latent_format = model.model.latent_format
    side = PIXELS if latent_format.spacial_downscale_ratio == 1 else SIDE
    video = [family.frames] if latent_format.latent_dimensions == 3 else []
    return (1, latent_format.latent_channels, *video, *[family.side or side] * 2)


def conditions(family, shape):
    def one(seed):
        told = {"pooled_output": random(1, family.pooled, seed=seed), **family.told(shape, seed)}
        return [[random(1, TOKENS, family.text, seed=seed), told]]

    return [one(seed) for seed in (3, 4, 5)]
