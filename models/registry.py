"""Every family of checkpoints that the pack reads, from specific to general, and what each file can be used as."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from . import (
    adm,
    asyrp,
    clip,
    clip_noisy,
    ddpm,
    diffae,
    glide,
    glide_clip,
    imagen,
    karlo,
    ldm,
    lpips,
    mmca,
    prior,
    scorer,
    vgg,
)
from .architecture import DESCRIPTION, Architecture, Checkpoint, first_fitting, own_names, parse
from .diffae.attributes import CELEBA
from .state_dict import CheckpointError, StateDict, outline, read

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
    mmca.MMCA,
    scorer.MLP,
    scorer.LINEAR,
)
LATENT = (ldm.CLASS_CONDITIONAL, ldm.UNCONDITIONAL)  # of files that hold an autoencoder too
WEIGHTS_IN = "weights_in"  # metadata: name of the file in the same folder that has the weights
DEMO = Path(__file__).parent / "demo"  # the pack's own small weights
MODEL, CLASSIFIER, ENCODER, MATCHER, PRIOR = "model", "classifier", "encoder", "matcher", "prior"
SCORER = "scorer"
AUTOENCODER = "diffusion autoencoder"
HSPACE, SEMANTIC = "hspace_edit", "semantic_direction"  # metadata "kind" of a direction's file
HOMES = {  # what a file can be used as: folder, and the node that loads it
    MODEL: ("guidance_models", "Load Guidance Model"),
    AUTOENCODER: ("guidance_models", "Load Diffusion Autoencoder"),
    CLASSIFIER: ("guidance_classifiers", "Load Guidance Classifier"),
    ENCODER: ("guidance_encoders", "Load Guidance Encoder"),
    MATCHER: ("guidance_matchers", "Load Matcher"),
    PRIOR: ("guidance_priors", "Load Prior"),
    SCORER: ("guidance_scorers", "Load Scorer"),
    HSPACE: ("guidance_directions", "Load HSpace Direction"),
    SEMANTIC: ("guidance_directions", "Load Semantic Direction"),
}
DIRECTIONS = {HSPACE: "an h-space direction", SEMANTIC: "a direction of meaning"}
Reader = Callable[[Path], tuple[dict[str, Tensor], dict[str, str]]]


def load_checkpoint(path: str | Path, kind: str, reader: Reader = read) -> Checkpoint:
    """Reads a file and checks it. `kind`: that of an `Architecture`; CheckpointError if it is another."""
    path = Path(path)
    state, metadata = _whole(path, reader)
    check_use_as(kind, state, metadata, path.name)
    checkpoint = _parsed(path.name, state, metadata)
    if checkpoint.architecture.kind != kind:  # of a file that the host saved, which says so inside
        raise CheckpointError(_elsewhere(path.name, checkpoint.architecture.title, checkpoint.architecture.kind, kind))
    return checkpoint


def check_file(path: str | Path, kind: str) -> None:
    """Raises the CheckpointError that loading would, as far as names and shapes tell it; no weights are read."""
    path = Path(path)
    state, metadata = _whole(path, outline)
    check_use_as(kind, state, metadata, path.name)
    if kind not in DIRECTIONS and DESCRIPTION not in state:
        _parsed(path.name, state, metadata)


def _parsed(name: str, state: dict[str, Tensor], metadata: Mapping[str, str]) -> Checkpoint:
    """Of latent diffusion's files the network, with the autoencoder beside it."""
    if not ldm.is_latent(state):
        return parse(name, state, metadata, ARCHITECTURES)
    network, beside = ldm.parted(state, name)
    return replace(parse(name, network, metadata, LATENT), beside=beside)


def check_use_as(kind: str, state: StateDict, metadata: Mapping[str, str], name: str) -> None:
    """Raises CheckpointError for a file of this pack's that is known to be of another kind, with where it belongs."""
    found = uses(state, metadata)
    if found and kind not in found:
        other, title = next(iter(found.items()))
        raise CheckpointError(_elsewhere(name, title, other, kind))


def uses(state: StateDict, metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file can be used as, of HOMES, and what it is in words; empty for files that nobody knows."""
    if (told := metadata.get("kind", "")) in DIRECTIONS:
        return {told: DIRECTIONS[told]}
    if ldm.is_latent(state):
        return {MODEL: "a latent diffusion model with its autoencoder"}
    stated = {family.id: family for family in ARCHITECTURES}.get(metadata.get("architecture", ""))
    family = stated or first_fitting(own_names(state, ARCHITECTURES), ARCHITECTURES)
    found = {} if family is None else {family.kind: family.title}
    if family is diffae.DIFFAE:
        found[AUTOENCODER] = diffae.DIFFAE.title
    if asyrp.holds_block(state):
        found[HSPACE] = "a delta block of Asyrp"
    attributes = state.get("classifier.weight")
    if attributes is not None and attributes.shape[:1] == (len(CELEBA),):
        found[SEMANTIC] = "the published attribute classifiers of a diffusion autoencoder"
    return found


def uses_of_file(path: str | Path) -> dict[str, str]:
    """`uses` without reading weights. Raises CheckpointError for files that can't be used."""
    return uses(*_whole(Path(path), outline))


def _elsewhere(name: str, title: str, found: str, needed: str) -> str:
    folder, loader = HOMES[found]
    what = DIRECTIONS.get(needed) or _a(needed)
    return f"{name} is {title}: put it into models/{folder} and load it with {loader}; {what} is needed here"


def _whole(path: Path, reader: Reader) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file's state dict and metadata, with the weights of the file that it is a view of."""
    state, metadata = reader(path)
    if WEIGHTS_IN in metadata:
        state, theirs = reader(_beside(path, metadata[WEIGHTS_IN]))
        metadata = {**theirs, **metadata}
    return state, metadata


def _beside(path: Path, name: str) -> Path:
    """A file in the same folder, and nowhere else."""
    if Path(name).name != name:
        raise CheckpointError(f"{path.name} is a view of the weights in {name}, which is no file's name")
    if not os.path.isfile(path.parent / name):  # False for names that no file can have
        raise CheckpointError(f"{path.name} is a view of the weights in {name}; put that file beside it")
    return path.parent / name


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
