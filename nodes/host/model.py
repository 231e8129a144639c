"""What a MODEL is, asked in one place, and whether a picture, an area, a LATENT or a VAE fits it."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import comfy.model_sampling
import numpy
import torch
from torch import Tensor, nn

from ...models.architecture import Facts

COLOURS = 3
LARGEST = 4  # a pixel model draws at most as many pixels as a picture this many times its own side has
AREA_UNIT = 8  # what Conditioning (Set Area) divides by, whatever the model
BLOCK = "double_block"  # the host's name of a block that patches may replace, and of patches behind a block
# what the host's transformers call the blocks that patches can look behind; Flux and others have more of another kind
BLOCK_LISTS = ("double_blocks", "joint_blocks", "transformer_blocks", "blocks", "layers", "double_layers")
SIGNS = "signs-"  # so begins a fingerprint that is the same in every precision


def is_pixel_model(model: Any) -> bool:
    """Whether the samples of a MODEL are pictures in [-1, 1]."""
    latent_format = model.model.latent_format
    return latent_format.latent_channels == COLOURS and latent_format.spacial_downscale_ratio == 1


def is_flow(sampling: Any) -> bool:
    """Whether x = (1 - sigma) x0 + sigma noise."""
    return isinstance(sampling, comfy.model_sampling.CONST)


def facts_of(model: Any) -> Facts | None:
    """What the pack knows of a MODEL; None for models that the host loaded."""
    return getattr(model.model, "facts", None)


def guesses_of(model: Any) -> dict[str, str]:
    """What was assumed when one of our models was loaded, {input of its loader: value}."""
    return dict(model.model.model_config.unet_config["checkpoint"].guesses)


def latent_shape(model: Any, size: int, vae: Any = None) -> tuple[int, ...]:
    """[C h w] of the model's latents for pictures of that side, of a video model one frame; the pack's own have theirs.

    How much smaller they are than pictures says the VAE, if there is one.
    """
    facts = facts_of(model)
    latent_format = model.model.latent_format
    ratio = latent_format.spacial_downscale_ratio if vae is None else vae.spacial_compression_encode()
    side = (facts.image_size if facts is not None else size) // ratio
    frames = [1] * (getattr(latent_format, "latent_dimensions", 2) - 2)
    return latent_format.latent_channels, *frames, side, side


def blocks_of(model: Any) -> int:
    """How many blocks a transformer of the host has that patches can look behind; 0 for all other networks."""
    name = _block_list(model.model.diffusion_model)
    return len(getattr(model.model.diffusion_model, name)) if name else 0


def _block_list(network: Any) -> str | None:
    """Name of the list of blocks in a transformer of the host that lets patches look behind them."""
    kind = type(network)
    if not kind.__module__.startswith("comfy.") or hasattr(network, "middle_block") or not _shows_blocks(kind):
        return None
    return next((name for name in BLOCK_LISTS if isinstance(getattr(network, name, None), nn.ModuleList)), None)


@cache
def _shows_blocks(kind: type) -> bool:
    """Whether the host's code of a network asks for patches of its blocks; nothing else of it tells before a run."""
    own = (part for part in kind.__mro__ if part.__module__.startswith("comfy."))
    try:
        return any(f'"{BLOCK}"' in inspect.getsource(part) for part in own)
    except OSError:  # no source: the run will tell
        return True


def owner_of(model: Any) -> tuple[str, str]:
    """(name, fingerprint) of a MODEL's own weights, LoRAs aside: of a U-Net's bottleneck, a transformer's middle block.

    The fingerprint is of the signs of the weights: rounding to half precision keeps them, training does not.
    """
    name = getattr(model.model.diffusion_model, "name", type(model.model).__name__)
    weight = _own_weight(model)
    bits = numpy.packbits(torch.signbit(weight.float()).flatten().numpy()).tobytes()
    digest = hashlib.sha256(str(list(weight.shape)).encode() + bits).hexdigest()
    return name, f"{SIGNS}{digest[:16]}"


def is_of(model: Any, fingerprint: str) -> bool:
    """Whether a fingerprint is that of the MODEL; those of older files hold for the precision they were made in."""
    if fingerprint.startswith(SIGNS):
        return owner_of(model)[1] == fingerprint
    weight = _own_weight(model).float().contiguous()
    return hashlib.sha256(weight.numpy().tobytes()).hexdigest()[:16] == fingerprint


def _own_weight(model: Any) -> Tensor:
    """A weight of the bottleneck, or of the middle block of a transformer, as it was loaded, on the CPU."""
    state, count = model.model.state_dict(), blocks_of(model)
    if count:
        middle = f".{_block_list(model.model.diffusion_model)}.{count // 2}."
        key = next(key for key, value in state.items() if middle in key and value.ndim == 2)
    else:
        key = next(key for key, value in state.items() if ("middle_block" in key or ".mid." in key) and value.ndim == 4)
    backup = model.backup.get(key) or getattr(getattr(model, "parent", None), "backup", {}).get(key)
    return (state[key] if backup is None else backup.weight).detach().cpu()


def progress_function(sampling: Any) -> Callable[[float], float]:
    """sigma -> progress in [0, 1], the inverse of the model's `percent_to_sigma`; no device is waited for.

    A table of trained noise levels is read backwards. Any other schedule is searched by bisection.
    """
    last = _last_step(sampling)
    search = partial(_bisected, sampling) if last is None else partial(_in_table, *_table(sampling), last)
    known: dict[float, float] = {}

    def progress(sigma: float) -> float:
        if sigma not in known:
            known[sigma] = 1.0 if sigma <= 0 else search(sigma)
        return known[sigma]

    return progress


def _last_step(sampling: Any) -> float | None:
    """The training step that a percent of 0 means, where percents are evenly spread over a table's steps; else None."""
    kind, table = type(sampling), comfy.model_sampling.ModelSamplingDiscrete
    if getattr(kind, "sigma", None) is not table.sigma:
        return None
    if kind.percent_to_sigma is table.percent_to_sigma:
        return 999.0
    return sampling.num_timesteps - 1.0 if getattr(kind, "whole", False) else None


def _table(sampling: Any) -> tuple[Any, Any]:
    """(log sigma, training step), rising."""
    levels = sampling.log_sigmas.detach().cpu().double().numpy()
    return levels, numpy.arange(len(levels))


def _in_table(levels: Any, steps: Any, last: float, sigma: float) -> float:
    level = math.log(sigma)
    if level >= levels[-1]:
        return 0.0
    return min(1.0, max(0.0, 1 - float(numpy.interp(level, levels, steps)) / last))


def _bisected(sampling: Any, sigma: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if float(sampling.percent_to_sigma(middle)) > sigma else (low, middle)
    return (low + high) / 2


def check_pictures(network: Any, shape: Sequence[int]) -> None:
    """Raises ValueError for pictures [B C H W], in pixels, that one of our networks can't take.

    `network` is a `PixelNetwork`. Far beyond its size there are no pictures, and attention takes all memory; areas
    and windows are seen one by one, so that a large latent in small parts is fine.
    """
    facts, name = network.facts, network.name
    if len(shape) != 4 or shape[1] != network.in_channels:
        channels = shape[1] - facts.low_res_channels - facts.kept_channels
        raise ValueError(
            f"the pixel model {name} takes a LATENT of {COLOURS} channels, this one has the shape "
            f"{[shape[0], channels, *shape[2:]]}; use Empty Pixel Latent, or VAE Encode with "
            "the VAE of Load Guidance Model"
        )
    height, width = shape[2:]
    if height % network.downscale or width % network.downscale:
        raise ValueError(
            f"the pixel model {name} takes pictures whose sides are multiples of {network.downscale}, this one is "
            f"{width} x {height}; change width and height"
        )
    size = facts.image_size
    if height * width > (LARGEST * size) ** 2:
        guess = ", as was assumed (image_size of its loader says otherwise)" if network.guessed_size else ""
        raise ValueError(
            f"the pixel model {name} was trained on pictures of {size} x {size}{guess}, and this one is {width} x "
            f"{height}; use Empty Pixel Latent at {size} x {size}, at most as large as {LARGEST * size} x "
            f"{LARGEST * size}: more gives no picture and takes all memory"
        )


def check_area(network: Any, cond: Mapping[str, Any]) -> None:
    """Raises ValueError for a condition whose area (height, width, y, x), in latents, a `PixelNetwork` can't take."""
    area = cond.get("area")
    if area is None:
        return
    ratio = network.space.latent_format.spacial_downscale_ratio
    height, width = (side * ratio for side in area[:2])
    if height % network.downscale == 0 and width % network.downscale == 0:
        return
    if cond.get("set_area_to_bounds"):
        way_out = "choose default as set_cond_area of Conditioning (Set Mask)"
    else:
        way_out = (
            f"Conditioning (Set Area) divides what it is given by {AREA_UNIT}, whatever the model: give it "
            f"{AREA_UNIT // ratio} times the size, or use Conditioning (Set Area with Percentage)"
        )
    raise ValueError(
        f"a conditioning's area is {width} x {height} pixels, and the pixel model {network.name} takes sides that are "
        f"multiples of {network.downscale}; {way_out}"
    )


def latent_channels(model: Any) -> int:
    """Of a MODEL's latents as a VAE and a LATENT have them; some models pack several frames into one inside.

    Where video and sound are sampled together the format says the larger number of both; those of the video have
    colours.
    """
    latent_format = model.model.latent_format
    axes = [2] * getattr(latent_format, "latent_dimensions", 2)
    channels = latent_format.process_out(torch.zeros(1, latent_format.latent_channels, *axes)).shape[1]
    factors = latent_format.latent_rgb_factors
    if factors is None or getattr(latent_format, "latent_rgb_factors_reshape", None) is not None:
        return channels
    return min(channels, len(factors))


def check_latent(model: Any, samples: Tensor) -> None:
    """Raises ValueError for samples of a LATENT that are of another model than a MODEL."""
    found, needed = samples.shape[1], latent_channels(model)
    if found != needed:
        raise ValueError(
            f"this LATENT has {found} channels, the model's latents have {needed}; encode with the VAE of the model's "
            "own checkpoint"
        )
    check_size(model, samples.shape)


def check_size(model: Any, shape: Sequence[int]) -> None:
    """Raises ValueError for latents [B C h w] of a size that one of our models can't draw."""
    network = model.model.diffusion_model
    if hasattr(network, "space"):
        ratio = model.model.latent_format.spacial_downscale_ratio
        check_pictures(network, [shape[0], network.in_channels, *(side * ratio for side in shape[2:])])


def check_vae(model: Any, vae: Any) -> None:
    """Raises ValueError for a VAE of another model than a MODEL."""
    found, needed = getattr(vae, "latent_channels", None), latent_channels(model)
    if found is not None and found != needed:
        raise ValueError(
            f"this VAE has {found} channels, the model's latents have {needed}; connect the VAE of the model's own "
            "checkpoint"
        )
