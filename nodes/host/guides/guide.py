"""What a GUIDANCE_GUIDE carries: what is measured, what it is compared with, how strong, when and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ....guidance import style_energy
from ....guidance.classifier_energy import log_probability
from ....guidance.clip_energy import DISTANCES, LEAST, cosine
from ....guidance.combine import EXACT
from ....guidance.diversity_energy import repulsion
from ....guidance.labels import parse_labels
from ....guidance.palette_energy import quantiles, sliced_wasserstein
from ....guidance.structure_energy import METHODS
from ....guidance.weight import Weight
from ....models.encoder import EMBEDDING, STYLE, chosen_layers
from ..judging.matcher import Matcher
from ..model import is_pixel_model
from .classifier import HostClassifier
from .encoder import Encoder
from .references import Measured, References, fingerprint

LAMBDA = 0.35  # weight 1 of a guide without a published scale: its length over `Step.reach`
COLOURS_ONLY = 0  # size of a guide that needs no pictures, only the colours of a sample
Measure = Callable[[Tensor, "Tensor | None"], Measured]  # (pictures [B 3 H W], sigma [B], None: they are clean)
Compare = Callable[[Measured, Measured], Tensor]  # (measured, wanted [n ...]) -> [B], lower is better


@dataclass(frozen=True, eq=False)
class Features:
    """A measure of an encoder's features; those of one encoder can be had in one pass."""

    encoder: Encoder
    names: Sequence[str]
    summary: Callable[[list[Tensor]], Measured] = list

    def __call__(self, pictures: Tensor, sigma: Tensor | None) -> Measured:
        return self.of(self.encoder.encode(pictures, sigma, self.names))

    def of(self, found: Mapping[str, Tensor]) -> Measured:
        return self.summary([found[name] for name in self.names])


@dataclass(frozen=True, eq=False)
class Guide:
    """One guide. `wanted` is fixed, or measured on `reference`; of a classifier it is neither."""

    name: str
    weight: Weight
    measure: Measure
    compare: Compare
    size: int  # pictures it looks at, or COLOURS_ONLY
    noise_aware: bool
    scale: float  # of weight 1 in the paper's unit
    least: float | None = 0.0  # of the energy; None: a log-probability, which is never limited
    owner: str = ""  # file of the encoder or classifier, for messages
    patchers: Sequence[Any] = ()
    wanted: Measured | None = None
    reference: Tensor | None = None  # [n 3 h w] in [-1, 1]
    same_view: bool = False  # the reference is looked at through the same crop as the sample
    fresh_noise: bool = True  # noise-aware: the reference gets new noise at each step
    mask: Tensor | None = None  # [n h w] in [0, 1]
    check_batch: Callable[[int], Any] | None = None  # raises ValueError for batches that it doesn't fit
    scored: bool = False  # its loss is minus a score that is worth reporting
    across: bool = False  # compares the pictures of a batch with each other, [... B D] -> [... B]; a single one is left
    references: References = field(default_factory=References)  # what clean references measure
    reference_key: tuple[Any, ...] = ()  # the reference and what is measured of it

    def needs_decoding(self, model: Any, gradient: str) -> bool:
        """Whether the guide needs pixels of a model on latents. Raises ValueError if it can't be taken at noisy."""
        if gradient == EXACT and not is_pixel_model(model):
            raise ValueError(
                f"at noisy: the guide '{self.name}' looks at noisy pictures, this model works on latents; use auto "
                "or at denoised"
            )
        if gradient == EXACT and not self.noise_aware:
            raise ValueError(
                f"at noisy: the guide '{self.name}' can't look at noisy pictures, {self.owner or 'it'} was made for "
                "clean ones; use auto or at denoised"
            )
        return self.size != COLOURS_ONLY and not is_pixel_model(model)

    def measured(self, pictures: Tensor, sigma: Tensor | None) -> Measured:
        """What reference pictures measure, without a graph."""
        with torch.no_grad():
            return [part.detach() for part in self.measure(pictures, sigma)]


def text_guide(encoder: Encoder, text: str, weight: Weight, loss: str, mask: Tensor | None) -> Guide:
    """SDG's language guidance. Raises ValueError where the encoder can't read the text."""
    return encoder_guide(
        encoder,
        name=f"text: {text}",
        weight=weight,
        mask=mask,
        kind="text",
        measure=Features(encoder, [EMBEDDING]),
        compare=lambda found, wanted: DISTANCES[loss](found[0], wanted[0]),
        least=None if encoder.facts.log_ratio and loss == "cosine" else LEAST[loss],
        wanted=[encoder.text(text)],
    )


def match_guide(encoder: Encoder, matcher: Matcher, text: str, weight: Weight, mask: Tensor | None) -> Guide:
    """Towards a sentence about several things: -S of MMCA, at clean pictures alone, as the matcher never saw others.

    Raises ValueError where the encoder isn't the matcher's, or the sentence can't be read.
    """
    guide = encoder_guide(
        encoder,
        name=f"match: {text}",
        weight=weight,
        mask=mask,
        kind="match",
        measure=Features(encoder, [matcher.layer_of(encoder)]),
        compare=lambda found, wanted: -matcher.of_maps(found[0], wanted[0]),
        least=-1.0 - matcher.config.alpha,
        wanted=[matcher.words([text], encoder).sets.states],
    )
    return replace(guide, noise_aware=False, patchers=[*encoder.patchers, matcher.patcher])


def content_guide(encoder: Encoder, image: Tensor, weight: Weight, fresh: bool, mask: Tensor | None) -> Guide:
    """SDG's image content guidance: the embedding says what is there, not where."""
    return encoder_guide(
        encoder,
        name="content",
        weight=weight,
        mask=mask,
        kind="content",
        measure=Features(encoder, [EMBEDDING]),
        compare=lambda found, wanted: cosine(found[0], wanted[0]),
        least=LEAST["cosine"],
        reference=image,
        fresh_noise=fresh,
        reference_key=(fingerprint(image.cpu()), "content"),
    )


def structure_guide(
    encoder: Encoder, image: Tensor, weight: Weight, method: str, layers: str, fresh: bool, mask: Tensor | None
) -> Guide:
    """SDG's structure guidance, or the distance of self-similarities. Raises ValueError for unknown layers."""
    names = chosen_layers(layers, encoder.network, method)
    return encoder_guide(
        encoder,
        name=f"structure ({method})",
        weight=weight,
        mask=mask,
        kind=method,
        measure=Features(encoder, names),
        compare=METHODS[method],
        reference=image,
        same_view=True,
        fresh_noise=fresh,
        reference_key=(fingerprint(image.cpu()), "maps", *names),
    )


def style_guide(
    encoder: Encoder, image: Tensor, weight: Weight, layers: str, fresh: bool, mask: Tensor | None
) -> Guide:
    """Gram matrices: as SDG released it for noise-aware encoders, relative to the reference's for others."""
    names = chosen_layers(layers, encoder.network, STYLE)
    return encoder_guide(
        encoder,
        name="style",
        weight=weight,
        mask=mask,
        kind="style",
        measure=Features(encoder, names, style_energy.grams),
        compare=style_energy.squared if encoder.noise_aware else style_energy.relative,
        reference=image,
        same_view=True,
        fresh_noise=fresh,
        reference_key=(fingerprint(image.cpu()), "gram", *names),
    )


def classifier_guide(classifier: HostClassifier, class_label: str, weight: Weight, mask: Tensor | None) -> Guide:
    """Classifier guidance (Dhariwal & Nichol 2021). Raises ValueError for unknown labels."""
    facts = classifier.facts

    def labels(batch: int) -> Tensor:
        return torch.tensor(parse_labels(class_label, facts.class_names, batch))

    count = class_label.strip().replace(";", "\n").count("\n") + 1
    labels(count)

    def compare(found: Measured, wanted: Measured) -> Tensor:
        (logits,) = found
        return -log_probability(logits, labels(len(logits)).to(logits.device), facts.class_groups)

    return Guide(
        name=f"class: {'; '.join(class_label.split(chr(10)))}",
        weight=weight,
        measure=lambda pictures, sigma: [classifier.logits(pictures, sigma)],
        compare=compare,
        least=None,
        size=facts.image_size,
        noise_aware=True,
        scale=1.0,
        owner=classifier.name,
        patchers=[classifier.patcher],
        wanted=[],
        mask=mask,
        check_batch=labels,
    )


def palette_guide(image: Tensor, weight: Weight, mask: Tensor | None) -> Guide:
    """Colours of the whole sample, by sliced Wasserstein distance; needs no encoder and no decoder."""
    return Guide(
        name="palette",
        weight=weight,
        measure=lambda colours, sigma: [quantiles(colours)],
        compare=lambda found, wanted: sliced_wasserstein(found[0], wanted[0]),
        size=COLOURS_ONLY,
        noise_aware=False,
        scale=1.0,
        wanted=[quantiles(image)],
        mask=mask,
    )


def diversity_guide(encoder: Encoder | None, weight: Weight, mask: Tensor | None) -> Guide:
    """Particle Guidance: the pictures of a batch push each other apart, in their colours or in an encoder's space.

    Colours are compared as Palette Guide does, by their distributions: so a picture is recoloured, not overlaid.
    """
    told: dict[str, Any] = {"name": "diversity", "weight": weight, "mask": mask, "wanted": [], "across": True}
    told["compare"] = lambda found, wanted: repulsion(found[0])
    if encoder is None:
        return Guide(
            measure=lambda colours, sigma: [quantiles(colours).flatten(1)],
            size=COLOURS_ONLY,
            noise_aware=False,
            scale=1.0,
            **told,
        )
    seen = Features(encoder, [EMBEDDING], lambda found: [normalize(found[0].float(), dim=-1)])
    return replace(encoder_guide(encoder, kind="diversity", measure=seen, **told), noise_aware=False)


def encoder_guide(encoder: Encoder, kind: str, **fields: Any) -> Guide:
    """A guide of that kind that looks with an encoder."""
    return Guide(
        size=encoder.size,
        noise_aware=encoder.noise_aware,
        scale=encoder.facts.guide_scales.get(kind, 1.0),
        owner=encoder.name,
        patchers=encoder.patchers,
        references=encoder.references,
        **fields,
    )
