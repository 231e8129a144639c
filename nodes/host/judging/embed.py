"""Embeddings of many pictures and texts, by any encoder that reads texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import comfy.model_management as mm
import comfy.utils
import torch
from torch import Tensor

from ....models.encoder import NoTextsError
from ..errors import about
from ..guides.encoder import Encoder
from ..pictures import to_pixels
from .pictures import published

PART = 32  # pictures at once


def embedded_images(encoder: Encoder, images: Tensor) -> Tensor:
    """IMAGE [B H W C] -> [B D] float32 on the CPU, not normalised, in parts; shown, and cancelled between two."""
    to_pixels(images[:1])  # is it one?
    mm.load_models_gpu(encoder.patchers)
    progress, found = comfy.utils.ProgressBar(len(images)), []
    for part in images.split(PART):
        mm.throw_exception_if_processing_interrupted()
        pictures = torch.stack([published(image, encoder.size) for image in part])
        with torch.inference_mode(False), torch.no_grad():
            clean = torch.zeros(len(pictures))
            found.append(encoder.embed((pictures * 2 - 1), clean).float().cpu())
        progress.update(len(part))
    return torch.cat(found)


def embedded_texts(encoder: Encoder, texts: Sequence[str], blamed: Callable[[str], str]) -> Tensor:
    """[n D]. Raises InputError: of the encoder if it reads no texts, of the input that `blamed` names for a text."""
    rows = []
    for text in texts:
        mm.throw_exception_if_processing_interrupted()
        try:
            rows.append(encoder.text(text))
        except NoTextsError as error:
            with about("encoder"):
                raise ValueError(str(error)) from error
        except ValueError as error:
            with about(blamed(text)):
                raise ValueError(f"{text!r}: {error}") from error
    return torch.cat(rows)
