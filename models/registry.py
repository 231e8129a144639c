"""Every family of checkpoints that the pack reads, from specific to general."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import adm, clip, clip_noisy, ddpm, diffae, glide, glide_clip, imagen, karlo, ldm, lpips, prior, vgg
from .architecture import Architecture, Checkpoint, parse
from .state_dict import CheckpointError, read

ARCHITECTURES: tuple[Architecture[Any], ...] = (
    diffae.DIFFAE,
    adm.CLASSIFIER,
    adm.UNET,
    glide.GLIDE,
    karlo.DECODER,
    karlo.UPSAMPLER,
    imagen.IMAGEN,
    prior.KARLO,
    prior.DIFFUSERS,
    ddpm.DDPM_UNET,
    clip_noisy.CLIP_NOISY,
    glide_clip.GLIDE_CLIP_IMAGE,
    glide_clip.GLIDE_CLIP_TEXT,
    clip.CLIP,
    lpips.LPIPS_DISTANCE,
    vgg.VGG,
)
LATENT = (ldm.CLASS_CONDITIONAL, ldm.UNCONDITIONAL)  # of files that hold an autoencoder too
WEIGHTS_IN = "weights_in"  # metadata: name of the file in the same folder that has the weights
DEMO = Path(__file__).parent / "demo"  # the pack's own small weights


def load_checkpoint(path: str | Path, kind: str) -> Checkpoint:
    """Reads a file and checks it. `kind`: one of an `Architecture`; CheckpointError if it is another."""
    path = Path(path)
    state, metadata = read(path)
    if WEIGHTS_IN in metadata:  # another view of a file beside this one
        state, theirs = read(_beside(path, metadata[WEIGHTS_IN]))
        metadata = {**theirs, **metadata}
    if ldm.is_latent(state):
        network, beside = ldm.parted(state, path.name)
        checkpoint = replace(parse(path.name, network, metadata, LATENT), beside=beside)
    else:
        checkpoint = parse(path.name, state, metadata, ARCHITECTURES)
    found = checkpoint.architecture
    if found.kind != kind:
        raise CheckpointError(f"{path.name} is {found.title}, {_a(found.kind)}; {_a(kind)} is needed here")
    return checkpoint


def _beside(path: Path, name: str) -> Path:
    """A file in the same folder, and nowhere else."""
    if Path(name).name != name:
        raise CheckpointError(f"{path.name} is a view of the weights in {name}, which is no file's name")
    if not os.path.isfile(path.parent / name):  # False for names that no file can have
        raise CheckpointError(f"{path.name} is a view of the weights in {name}; put that file beside it")
    return path.parent / name


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
