"""Pictures and samples: IMAGEs as tensors, VAEs, the tiny decoder, and how guides see what a MODEL samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import latent_preview
import torch
from comfy.taesd.taehv import TAEHV
from comfy.taesd.taesd import TAESD
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ...guidance.views import clamped
from .errors import about
from .gradients import differentiable
from .model import COLOURS, check_size, check_vae, is_pixel_model

VIDEO = 5  # axes of a video latent, [B C T H W]


@dataclass(frozen=True)
class Packed:
    """Video and sound that the host samples as one, [B 1 N] by their shapes; guides see the video.

    Without shapes, or with one, nothing is packed.
    """

    shapes: Sequence[torch.Size] = ()

    def first(self, x: Tensor) -> Tensor:
        """The first latent of samples, [B C T h w]; a single one as it is."""
        return comfy.utils.unpack_latents(x, self.shapes)[0]

    def whole(self, first: Tensor, x: Tensor) -> Tensor:
        """Samples x with another first latent."""
        if len(self.shapes) < 2:
            return first
        return comfy.utils.pack_latents([first, *comfy.utils.unpack_latents(x, self.shapes)[1:]])[0]


def to_pixels(image: Tensor) -> Tensor:
    """IMAGE [B H W C] in [0, 1] -> [B 3 H W] in [-1, 1]; transparency is left out."""
    if image.ndim != 4 or image.shape[-1] < COLOURS or 0 in image.shape:
        raise ValueError(
            f"an IMAGE with {COLOURS} colour channels is needed, this one has the shape {list(image.shape)}"
        )
    return image[..., :COLOURS].movedim(-1, 1) * 2 - 1


def empty_pixels(batch: int, height: int, width: int) -> dict[str, Any]:
    """An empty LATENT of pictures."""
    samples = torch.zeros(batch, COLOURS, height, width, device=mm.intermediate_device())
    return {"samples": samples, "downscale_ratio_spacial": 1}


def area(mask: Tensor | None, denoise_mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Where a guide acts, at the sample's size: its own mask, and only what inpainting leaves free."""
    result = None
    if mask is not None:
        small = interpolate(mask.reshape(-1, 1, *mask.shape[-2:]).to(x), x.shape[-2:], mode="area")  # [n 1 h w]
        if len(small) not in (1, len(x)):
            raise ValueError(f"a guide's mask has {len(small)} pictures for a batch of {len(x)}; give one, or {len(x)}")
        result = small if x.ndim == 4 else small.reshape(len(small), *[1] * (x.ndim - 3), *x.shape[-2:])
    if denoise_mask is None:
        return result
    free = denoise_mask.to(x).clone()
    return free if result is None else result * free


def require_vae(model: Any, vae: Any) -> None:
    """Raises ValueError where pictures can't become latents of the model."""
    if vae is not None:
        check_vae(model, vae)
    elif not is_pixel_model(model):
        raise ValueError("this model works on latents; connect the VAE that belongs to it")


def encode_picture(image: Tensor, vae: Any) -> Tensor:
    """IMAGE [B H W C] -> the model's latents, outside form (as in a LATENT)."""
    return to_pixels(image) if vae is None else vae.encode(image[..., :COLOURS])


def to_invert(model: Any, image: Tensor, vae: Any, name: str = "image") -> Tensor:
    """Latents of the pictures at an input, or what is wrong with them or the VAE."""
    with about("vae"):
        require_vae(model, vae)
    with about(name):
        samples = encode_picture(image, vae)
        check_size(model, samples.shape)
        return samples


def each_to_invert(model: Any, images: Tensor, vae: Any, name: str) -> Tensor:
    """The same for pictures that are samples of their own, which a video VAE would take for the frames of one."""
    video = getattr(vae, "latent_dim", 2) == VIDEO - 2
    parts = images.split(1 if video else max(1, len(images)))
    return torch.cat([to_invert(model, part, vae, name) for part in parts])


def pixel_vae() -> comfy.sd.VAE:
    """The host's VAE without weights: IMAGE in [0, 1] <-> pictures in [-1, 1]."""
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})


def vae_around(network: nn.Module, channels: int, ratio: int) -> comfy.sd.VAE:
    """The host's VAE with a network of ours: latents of so many channels, a ratio smaller than pictures."""
    vae: Any = pixel_vae()
    network.eval().requires_grad_(False)
    vae.first_stage_model = network
    vae.patcher = comfy.model_patcher.ModelPatcher(
        network, load_device=vae.device, offload_device=mm.vae_offload_device()
    )
    vae.latent_channels, vae.downscale_ratio, vae.upscale_ratio = channels, ratio, ratio
    vae.vae_dtype = torch.float32
    return vae


class ModelSpaceTAESD(TAESD):
    """A TAESD as the host's previews use it: on latents as the model has them, not as a VAE has them."""


def tiny_name(model: Any) -> str | None:
    """What the host calls the tiny decoder of the model's latents."""
    return getattr(model.model.latent_format, "taesd_decoder_name", None)


def tiny_path(model: Any) -> str | None:
    """The tiny decoder of the model's latents, if the user has it in models/vae_approx."""
    wanted = tiny_name(model)
    if not wanted:
        return None
    names = [name for name in folder_paths.get_filename_list("vae_approx") if name.startswith(wanted)]
    return folder_paths.get_full_path("vae_approx", names[0]) if names else None


def tiny_decoder(model: Any, path: str) -> comfy.sd.VAE:
    """The tiny decoder as a VAE, in float32: in bfloat16 a TAESD's gradients turn by more than 8 degrees.

    Those of video models are VAEs to the host, and take latents as a VAE has them.
    """
    latent_format = model.model.latent_format
    with torch.inference_mode(False), torch.no_grad():
        if tiny_name(model) in latent_preview.VIDEO_TAES:
            return comfy.sd.VAE(sd=comfy.utils.load_torch_file(path, safe_load=True), dtype=torch.float32)
        taesd = ModelSpaceTAESD(None, path, latent_channels=latent_format.latent_channels)
    return vae_around(taesd, latent_format.latent_channels, latent_format.spacial_downscale_ratio)


def choose_decoder(model: Any, vae: Any | None, tiny_vae: Any | None, needed: bool) -> tuple[Any | None, str]:
    """The cheapest way to pixels, and what it is: none needed, the wired tiny decoder, the host's TAESD, the wired VAE.

    Raises ValueError where guides need pixels and there is no way to them.
    """
    if not needed or is_pixel_model(model):
        return None, ""
    for name, wired in (("vae", vae), ("tiny_vae", tiny_vae)):
        if wired is not None:
            with about(name):
                check_vae(model, wired)
    if tiny_vae is not None:
        return tiny_vae, "input tiny_vae"
    path = tiny_path(model)
    if path is not None:
        return tiny_decoder(model, path), f"{Path(path).name} in models/vae_approx"
    if vae is None:
        with about("vae"):
            name = tiny_name(model)
            tiny = f", or put {name}.safetensors into models/vae_approx" if name else ""
            raise ValueError(
                "a guide looks at pixels and this model works on latents: connect the VAE of the checkpoint"
                f"{tiny} (cheaper)"
            )
    return vae, "input vae"


class Decoder:
    """The pixels of a sample, differentiable."""

    def __init__(self, model: Any, vae: Any | None):
        """`vae` is None where the model works on pictures, or no guide needs any."""
        self.model = model
        self.vae = vae

    @property
    def ratio(self) -> int:
        """Pixels a latent element is wide."""
        stated = getattr(self.vae, "spacial_compression_decode", None)
        return self.model.model.latent_format.spacial_downscale_ratio if stated is None else stated()

    def pixels(self, z: Tensor, smallest: float, frames: range | None = None) -> Tensor:
        """A clean sample [B ...] -> [B*F 3 H W] in [-1, 1]; F frames of a video, else 1.

        `frames` of a latent video are decoded, as a clip of their own; None: all.
        Latents much larger than guides of `smallest` pixels need are averaged first: decoding is what costs.
        """
        return clamped(self._decoded(z if frames is None else z[:, :, frames.start : frames.stop], smallest))

    def pictures(self, count: int) -> int:
        """Pictures that so many latent frames of a video become."""
        ratio = getattr(self.vae, "upscale_ratio", 1)
        return ratio[0](count) if isinstance(ratio, tuple) else count

    def one(self, shape: Sequence[int], smallest: float) -> list[int]:
        """The shape of what the decoder is given for one picture of a sample [B C h w] or [B C T h w]."""
        sides, frame = list(shape[-2:]), [1] * (len(shape) == VIDEO and not self._by_frame)
        if len(shape) != VIDEO or shape[2] == 1:
            sides = [min(*sides, self._enough(smallest))] * 2
        return [1, shape[1], *frame, *sides]

    @property
    def _by_frame(self) -> bool:
        """Whether a video's frames are decoded as pictures."""
        return isinstance(getattr(self.vae, "first_stage_model", None), TAESD)

    @cached_property
    def _from_0(self) -> bool:
        """Whether the VAE's network draws in [0, 1], as most tiny decoders of video models do, and not in [-1, 1]."""
        output = getattr(self.vae, "process_output", None)
        return output is not None and output(torch.zeros(1)).tolist() == [0.0]  # on the CPU: nothing waits

    def _enough(self, smallest: float) -> int:
        return math.ceil(smallest / self.ratio)

    def _decoded(self, z: Tensor, smallest: float) -> Tensor:
        if self.vae is None:
            return _frames(z)
        network = self.vae.first_stage_model
        dtype = getattr(self.vae, "vae_dtype", torch.float32)
        device = self.vae.patcher.load_device  # the VAE's own: the host may keep it on the CPU
        with differentiable(network, in_place=not self._by_frame):
            if not isinstance(network, ModelSpaceTAESD):
                z = self.model.model.process_latent_out(z)
            z = self._smaller(z, smallest)
            z = _frames(z) if self._by_frame else z
            pictures = _frames(_clip(network, z.to(device, dtype)).float()).to(z.device)
            return pictures * 2 - 1 if self._from_0 else pictures

    def _smaller(self, z: Tensor, smallest: float) -> Tensor:
        """A latent picture averaged to what is enough; videos as they are."""
        *frames, height, width = z.shape[2:]
        scale = self._enough(smallest) / min(height, width)
        if scale >= 1 or frames not in ([], [1]):
            return z
        return interpolate(z, [*frames, round(height * scale), round(width * scale)], mode="area")

    def colours(self, z: Tensor) -> Tensor:
        """A clean sample -> approximate colours [B 3 N] in [-1, 1] by the latent format's linear map."""
        latent_format = self.model.model.latent_format
        if is_pixel_model(self.model):
            return z.flatten(2)
        factors = latent_format.latent_rgb_factors
        if factors is None:
            raise ValueError(
                f"the palette guide needs a linear map from latents to colours, and {type(latent_format).__name__} "
                "has none; use a style guide"
            )
        reshape = getattr(latent_format, "latent_rgb_factors_reshape", None)
        flat = (z if reshape is None else reshape(z)).flatten(2)
        colours = torch.einsum("cr,bcn->brn", torch.tensor(factors).to(flat), flat)
        bias = getattr(latent_format, "latent_rgb_factors_bias", None)
        return colours if bias is None else colours + torch.tensor(bias).to(flat)[:, None]


def _clip(network: Any, z: Tensor) -> Tensor:
    """What a VAE's network draws. TAEHV at all frames at once: one after the other, it cuts the graph between them."""
    if not isinstance(network, TAEHV):
        return network.decode(z)
    own = network.parallel
    network.parallel = True
    try:
        return network.decode(z)
    finally:
        network.parallel = own


def _frames(z: Tensor) -> Tensor:
    """[B C T H W] -> [B*T C H W]."""
    return z.movedim(2, 1).flatten(0, 1) if z.ndim == VIDEO else z
