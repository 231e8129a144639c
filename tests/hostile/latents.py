"""Latent diffusion's checkpoints whose autoencoder lies; the network beside it is right."""

from __future__ import annotations

from functools import cache

import ldm_golden
import torch
from safetensors.torch import save

from .case import MODEL, Case, content

WIDE = 1024  # of a vector-quantised autoencoder: a gigabyte of weights


@cache
def right():
    return {key: value.contiguous() for key, value in (ldm_golden.checkpoint() | ldm_golden.first_stage()).items()}


def autoencoder(**changed):
    """With other tensors, None: without; keys have __ for a dot."""
    named = {f"first_stage_model.{key.replace('__', '.')}": value for key, value in changed.items()}
    return content(lambda: save({key: value for key, value in {**right(), **named}.items() if value is not None}))


def other(**weights):
    """With no autoencoder but these."""

    def data():
        found = {key: value for key, value in right().items() if not key.startswith("first_stage_model.")}
        return save(found | {f"first_stage_model.{key.replace('__', '.')}": value for key, value in weights.items()})

    return content(data)


def wide():
    encoder = "first_stage_model.encoder."
    keys = [key.removeprefix(encoder) for key in right() if key.startswith(encoder)]
    first = [key for key in keys if key.endswith(".block.0.conv1.weight") or key == "conv_in.weight"]
    return {f"encoder__{key.replace('.', '__')}": torch.empty(WIDE, 0) for key in first}


def cases() -> list[Case]:
    codes, one = "quantize__embedding__weight", torch.ones(1)
    table = {
        "of whole numbers": autoencoder(**{codes: torch.ones(16, 3, dtype=torch.int8)}),
        "of 10^9 codes": autoencoder(**{codes: torch.empty(10**9, 0)}),
        "of codes without a number": autoencoder(**{codes: torch.empty(0, 10**5)}),
        "of a scalar as codes": autoencoder(**{codes: torch.ones(())}),
        "without a bias": autoencoder(encoder__conv_in__bias=None),
        "with a key too many": autoencoder(encoder__evil__weight=one),
        "of a gigabyte that isn't there": autoencoder(**wide()),
        "of one number": other(x=one),
        "of a decoder's first layer": other(decoder__conv_in__weight=torch.ones(8, 4, 3, 3)),
        "of 32 channels of another host's": other(decoder__conv_in__weight=torch.ones(8, 32, 1, 3, 3)),
        "of empty layers": other(decoder__conv_in__weight=torch.empty(3072, 4, 3, 0)),
    }
    return [Case(f"autoencoder {name}", write) for name, write in table.items()]


def control() -> Case:
    return Case("control: latent diffusion", autoencoder(), MODEL, (MODEL,))
