"""What a user of a network must know and its weights don't say, and which of it can be true."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .schedule import BETAS

LIMITS = {"training_steps": (50, 10000), "image_size": (1, 4096)}
SPACES, PREDICTIONS = ("pixels", "haar", "latent f4", "latent f8"), ("eps", "flow")
ENLARGING = ("bilinear", "bilinear corners", "bicubic")
STRONGEST = 1e30  # of a guide, by far: that of styles has 2e9
LONGEST_NAME = 300  # letters of a class's name; ImageNet's have up to 120
JSON_FACTS = ("class_names", "class_groups")
WORDS = {int: "a whole number", list: "a list", dict: "an object of JSON"}
NUMBERS = ("image_size", "no_class", "training_steps", "rescale_timesteps")
TEXTS = ("schedule", "space", "prediction")


@dataclass(frozen=True)
class Facts:
    """What a user of the network must know and its weights don't say by themselves.

    Raises ValueError for what can't be true of any network.
    """

    image_size: int
    """Side in pixels of the pictures it was trained on."""
    schedule: str = "linear"
    """Name of its noise schedule (`models.schedule.BETAS`)."""
    training_steps: int = 1000
    """Timesteps of that schedule."""
    rescale_timesteps: bool = False
    """The network is told t * 1000 / training_steps and not t (`rescale_timesteps` of the published code)."""
    class_names: tuple[str, ...] = ()
    """Names of its classes in order; empty for a network without classes."""
    class_groups: tuple[int, ...] = ()
    """Classifier only: sizes of consecutive groups of classes, one softmax each."""
    no_class: int | None = None
    """Label that means "no class" in a class-conditional model trained with label dropout."""
    class_tokens: bool = False
    """A class is a token that attention looks at, not a part of the time embedding."""
    learned_variance: bool = False
    """The second half of the output channels interpolates the variance."""
    low_res_channels: int = 0
    """Channels of a low-resolution picture that an upsampler takes beside its input."""
    kept_channels: int = 0
    """Channels of what inpainting keeps, the picture where it is known and the mask, beside the input."""
    vocabulary: str = ""
    """Whose tokens a text-conditional model reads; empty for a model that reads none."""
    text_encoder: str = ""
    """Which other network reads the texts for a model, "CLIP" or "T5"; empty for a model that needs none."""
    text_width: int = 0
    """Numbers in a row of that network's states."""
    image_embeds: int = 0
    """Numbers in CLIP's embedding of a picture that an unCLIP decoder draws anew."""
    enlarging: str = "bilinear"
    """How an upsampler's small picture is brought to size: one of ENLARGING."""
    augmentation: float | None = None
    """Usual noise on that small picture, of 1, in an upsampler that is told how much it is."""
    space: str = "pixels"
    """What the samples of a model are: "pixels", "haar" (their wavelet transform, `models.haar`), or the latents of an
    autoencoder that makes pictures 4 or 8 times as small, "latent f4" and "latent f8"."""
    prediction: str = "eps"
    """What the host is told that a model predicts: "eps", or "flow" (the same network on a flow's clock)."""
    noise_aware: bool = False
    """Encoder only: it takes noisy pictures and their noise level."""
    semantic: int = 0
    """Diffusion autoencoder only: numbers in z_sem, which every prediction needs."""
    guide_scales: Mapping[str, float] = field(default_factory=dict)
    """Encoder only: what weight 1 means for each kind of guide, where a paper or a training run says so."""
    logit_scale: float = 100.0
    """Encoder only: what its cosines are multiplied by before a softmax, where its file doesn't say it."""
    log_ratio: bool = False
    """Encoder only: its scaled cosine with a text guides as a log-probability, exact and never limited (GLIDE)."""

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            _check(least <= getattr(self, name) <= most, name, getattr(self, name), f"{least} to {most} are possible")
        for name, known in (("schedule", BETAS), ("space", SPACES), ("prediction", PREDICTIONS)):
            _check(getattr(self, name) in known, name, repr(getattr(self, name)), f"there are {', '.join(known)}")
        _check(self.rescale_timesteps in (0, 1), "rescale_timesteps", self.rescale_timesteps, "0 or 1 is possible")
        named = all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME for name in self.class_names)
        _check(named, "class_names", "no list of names", f"each has 1 to {LONGEST_NAME} letters")
        groups, classes = self.class_groups, len(self.class_names)
        sizes = all(type(size) is int and size > 0 for size in groups) and sum(groups) == classes
        _check(not groups or sizes, "class_groups", "no list of sizes", f"they are those of {classes} classes together")
        scales = self.guide_scales.values()
        finite = all(type(scale) in (int, float) and abs(scale) <= STRONGEST for scale in scales)
        _check(finite, "guide_scales", "no list of scales", f"each is a number of at most {STRONGEST:.0e}")


def _check(holds: bool, name: str, found: Any, possible: str) -> None:
    if not holds:
        raise ValueError(f"its {name} is {found}; {possible}")


def of_json(metadata: Mapping[str, str], key: str, kind: type) -> Any:
    """What a file says under a key. Raises ValueError where that is no JSON, or of another kind."""
    try:
        found = json.loads(metadata[key])
    except KeyError:
        raise ValueError(f"its {key} is missing") from None
    except RecursionError as error:
        raise ValueError(f"its {key} is JSON that is nested too deep") from error
    except ValueError as error:
        raise ValueError(f"its {key} is no JSON ({error})") from error
    _check(type(found) is kind, key, "something else", f"{WORDS[kind]} is needed")
    return found


def stated(read: Facts, metadata: Mapping[str, str], classes: int) -> Facts:
    """Facts of our own files: what the metadata states goes before what the configuration implies.

    `classes` are those that the network has a number or a row for. Raises ValueError for what can't be true of it.
    """
    found: dict[str, Any] = {key: tuple(of_json(metadata, key, list)) for key in JSON_FACTS if key in metadata}
    found |= {key: of_json(metadata, key, int) for key in NUMBERS if key in metadata}
    found |= {key: metadata[key] for key in TEXTS if key in metadata}
    if "guide_scales" in metadata:
        found["guide_scales"] = of_json(metadata, "guide_scales", dict)
    facts = replace(read, **found)
    names, real = len(facts.class_names), classes - (facts.no_class is not None)
    _check(names in (0, real, classes), "class_names", f"a list of {names}", f"the network has {classes} classes")
    known = facts.no_class is None or 0 <= facts.no_class < classes
    _check(known, "no_class", facts.no_class, f"the network has {classes} classes, the first is 0")
    return facts


def written(facts: Facts) -> dict[str, str]:
    """What `stated` reads."""
    found = {key: json.dumps(getattr(facts, key)) for key in JSON_FACTS}
    found |= {key: str(int(getattr(facts, key))) for key in NUMBERS if getattr(facts, key) is not None}
    return found | {key: getattr(facts, key) for key in TEXTS}
