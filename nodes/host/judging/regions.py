"""Regions of pictures as an encoder sees them: the value of a GUIDANCE_REGIONS socket."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management as mm
import comfy.utils
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ....models.mmca.network import Sets
from ....models.mmca.regions import cells, under
from ..guides.encoder import Encoder
from ..pictures import to_pixels
from .pictures import published

PART = 32  # pictures at once
SEEN = 64  # most pixels a side of where a region is


@dataclass(frozen=True, eq=False)
class Regions:
    images: Tensor  # [n H W C], as they came
    sets: Sets  # states [n k D] in float32, on the CPU
    places: Tensor  # [n k h w] in [0, 1]: where each region lies in the middle square of its picture
    encoder: Encoder
    layer: str

    @property
    def origin(self) -> str:
        return f"{self.layer} of {self.encoder.name}"


def regions_of(encoder: Encoder, images: Tensor, layer: str, masks: Tensor | None) -> Regions:
    """Every cell of a feature map of IMAGE [n H W C], or what lies under masks [n k H W] in [0, 1].

    Pictures are shown as a CLIP sees them: resized, the middle square. In parts, shown, and cancelled between two.
    """
    to_pixels(images[:1])  # is it one?
    mm.load_models_gpu(encoder.patchers)
    progress, found, side = comfy.utils.ProgressBar(len(images)), [], (0, 0)
    for rows in torch.arange(len(images)).split(PART):
        mm.throw_exception_if_processing_interrupted()
        pictures = torch.stack([published(image, encoder.size) for image in images[rows]])
        with torch.inference_mode(False), torch.no_grad():
            (seen,) = encoder.maps(pictures * 2 - 1, torch.zeros(len(pictures)), [layer])
            seen, side = seen.float().cpu(), seen.shape[2:]
            found.append(cells(seen) if masks is None else under(seen, masks[rows].float()))
        progress.update(len(rows))
    sets = Sets(torch.cat([part.states for part in found]), torch.cat([part.keep for part in found]))
    places = _cells_of(*side) if masks is None else _small(masks)
    return Regions(images, sets, places.expand(len(images), -1, -1, -1), encoder, layer)


def _cells_of(height: int, width: int) -> Tensor:
    """[1 h w h w]: each cell by itself, in the order of `cells`."""
    return torch.eye(height * width).view(1, height * width, height, width)


def _small(masks: Tensor) -> Tensor:
    height, width = masks.shape[2:]
    shrink = min(1.0, SEEN / max(height, width))
    return interpolate(masks.float(), (max(1, round(height * shrink)), max(1, round(width * shrink))), mode="area")


def masks_of(images: Tensor, masks: Tensor) -> Tensor:
    """MASK [n k, H, W], those of the first picture first, or [k H W] for every picture -> middle squares [n k S S].

    Raises ValueError for a number of masks that can't be shared out, and pictures and masks of different sizes.
    """
    masks = masks.reshape(-1, *masks.shape[-2:])
    size, given = tuple(images.shape[1:3]), tuple(masks.shape[1:])
    if size != given:
        raise ValueError(
            f"the masks are {given[1]} x {given[0]} and the pictures {size[1]} x {size[0]}; give masks of the pictures"
        )
    if len(masks) % len(images):
        raise ValueError(
            f"{len(masks)} masks can't be shared out to {len(images)} pictures; give every picture as many, those of "
            "the first picture first"
        )
    side, (height, width) = min(size), size
    top, left = round((height - side) / 2), round((width - side) / 2)
    return masks[:, top : top + side, left : left + side].unflatten(0, (len(images), -1))
