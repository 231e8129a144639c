"""Scorers of embeddings under the host's memory management, the value of a GUIDANCE_SCORER socket, and their guides."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management as mm
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ....guidance.classifier_energy import log_probability
from ....guidance.clip_energy import pair
from ....guidance.labels import parse_labels
from ....guidance.weight import Weight
from ....models.architecture import Checkpoint
from ....models.encoder import EMBEDDING
from ....models.scorer.network import HeadConfig
from ..errors import about
from ..gradients import make_differentiable
from ..guides.encoder import Encoder
from ..guides.guide import Features, Guide, encoder_guide
from ..guides.references import Measured
from ..memory import hosted_small


class Scorer:
    """Scores of image embeddings. Computes in float32 on its own device; it is small."""

    def __init__(self, checkpoint: Checkpoint):
        self.name = checkpoint.name
        self.config: HeadConfig = checkpoint.config
        self.groups = checkpoint.facts.class_groups
        self.outputs = checkpoint.facts.class_names or tuple(str(place) for place in range(self.config.outputs))
        self.patcher = hosted_small(checkpoint)

    def check(self, encoder: Encoder) -> None:
        """Raises ValueError for an encoder whose embeddings have another width than it was trained on."""
        mm.load_models_gpu(encoder.patchers)
        with torch.inference_mode(False), torch.no_grad():
            found = encoder.encode(torch.zeros(1, 3, encoder.size, encoder.size), None, [EMBEDDING])[EMBEDDING].shape[1]
        if found != self.config.widths[0]:
            raise ValueError(
                f"{self.name} scores embeddings of {self.config.widths[0]} numbers, and those of {encoder.name} have "
                f"{found}; use the encoder that it was trained on"
            )

    def chosen(self, output: str, batch: int) -> Tensor | None:
        """The output of each picture, [B]; None where there is one alone. Raises ValueError for one it hasn't got."""
        if len(self.outputs) == 1 and not output.strip():
            return None
        if not output.strip():
            raise ValueError(
                f"{self.name} has {len(self.outputs)} outputs; name one of them: {', '.join(self.outputs[:8])}"
                + ", ..." * (len(self.outputs) > 8)
            )
        return torch.tensor(parse_labels(output, self.outputs, batch))

    def scores(self, embeddings: Tensor) -> Tensor:
        """[B D] of any length -> [B outputs]; gradients pass."""
        make_differentiable(self.patcher.model)  # after the host moved it; otherwise nothing to do
        given = normalize(embeddings.float(), dim=-1).to(self.patcher.load_device)
        return self.patcher.model(given).to(embeddings.device)

    def loss(self, embeddings: Tensor, output: str) -> Tensor:
        """[B D] -> [B]: minus the score, or of several outputs minus the log-probability of one in its group."""
        found, labels = self.scores(embeddings), self.chosen(output, len(embeddings))
        if labels is None or len(self.outputs) == 1:
            return -found[:, 0]
        return -log_probability(found, labels.to(found.device), self.groups)


def score_guide(encoder: Encoder, scorer: Scorer, output: str, weight: Weight, mask: Tensor | None) -> Guide:
    """Up a scorer's score, at clean pictures alone, as the scorer never saw others.

    Raises InputError of `encoder` for one that isn't the scorer's, of `output` for one that it hasn't got.
    """
    with about("encoder"):
        scorer.check(encoder)
    with about("output"):
        scorer.chosen(output, max(1, len(output.strip().replace(";", "\n").splitlines())))
    return replace(
        _upwards(encoder, scorer.name + f", {' '.join(output.split())}" * bool(output.strip()), weight, mask),
        compare=lambda found, wanted: scorer.loss(found[0], output),
        patchers=[*encoder.patchers, scorer.patcher],
        wanted=[],
        check_batch=lambda batch: scorer.chosen(output, batch),
    )


def pair_guide(encoder: Encoder, text: str, opposite: str, weight: Weight, mask: Tensor | None) -> Guide:
    """Towards one text and away from its opposite. Raises InputError of the text that the encoder can't read."""
    texts = []
    for name, said in (("text", text), ("opposite", opposite)):
        with about(name):
            texts.append(encoder.text(said))
    scale = encoder.logit_scale

    def compare(found: Measured, wanted: Measured) -> Tensor:
        return pair(found[0], wanted[0], scale)

    return replace(
        _upwards(encoder, f"{text}, not {opposite}", weight, mask), compare=compare, wanted=[torch.cat(texts)]
    )


def _upwards(encoder: Encoder, name: str, weight: Weight, mask: Tensor | None) -> Guide:
    guide = encoder_guide(
        encoder,
        name=f"score: {name}",
        weight=weight,
        mask=mask,
        kind="score",
        measure=Features(encoder, [EMBEDDING]),
        compare=lambda found, wanted: found[0].sum(-1),
        least=None,
    )
    return replace(guide, noise_aware=False, scored=True)
