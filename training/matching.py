"""Trains the pack's matcher of pictures and sentences: MMCA on scenes of two shapes, seen by the frozen scenes CLIP.

Bidirectional hinge loss with hardest negatives (Faghri et al. 2018, arXiv 1707.05612, eq. 6; SAEM's and MMCA's):

    L = sum_i max(0, m - S_ii + max_j S_ij) + max(0, m - S_ii + max_j S_ji)

The paper's S is the sum of a global and a cross term. Here each term has this loss by itself: where the global term
alone keeps the margin the loss of the sum is 0, and the cross term, which learns later, would never learn. As a hardest
negative of a sum is at most the sum of the hardest, both losses together bound that of S at the margin 2 m from above.

From nothing the hinge loss collapses: every score becomes the same, and the loss 2 m. So CLIP's contrast stands beside
it. A batch holds scenes and their twins, whose shapes changed an attribute. The cross attention sees each sentence with
ASKED pictures: with hard ones alone it learns nothing either, as easy ones teach it what a word means. What is true by
chance is no negative.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, one_hot

from models.clip_noisy.words import indices
from models.encoder import ImageEncoder
from models.mmca.network import Mmca, MmcaConfig, Sets
from models.mmca.regions import BOX, cells
from models.registry import DEMO, load_checkpoint

from .loop import Recipe, Run, arguments, train
from .scenes import CLASSES
from .two_shapes import (
    ARTICLES,
    ATTRIBUTES,
    WORDS,
    Pairs,
    Sentences,
    draw_pairs,
    fits,
    joined,
    moved,
    render_pairs,
    sentences,
    swapped,
)

ENCODER, LAYER = "scenes_clip.safetensors", "layer3"
CONFIG = MmcaConfig(
    region=224 + BOX,
    word=64,
    d=64,
    heads=4,
    inner=128,
    channels=64,
    words=WORDS,
    context=12,
    encoder=ENCODER,
    layer=LAYER,
)
RECIPE = Recipe(images=640_000, batch=64, learning_rate=1.5e-3, warmup=100, seed=19, ema=0.998, weight_decay=0.01)
MARGIN = 0.2
SAID, RELATED, ALONE = (1.0, 0.85, 0.4), 0.8, 0.1  # how often sentences name each attribute, the relation, one shape
RIDGE, SIDE = 100.0, 4  # of the probe that the training begins with; cells a side of LAYER
KEPT, POOLS, BATCHES = 512, 64, 256  # scenes the encoder sees together, how many such are kept, batches between two
LOGIT_SCALE = 20.0  # of the contrast
ASKED = 7  # pictures of each sentence that the cross attention looks at
NEVER = -torch.inf  # the score of a pair that was not looked at


def hinge(scores: Tensor, true: Tensor, hardest: float = 1.0, margin: float = MARGIN) -> Tensor:
    """Mean over the pairs [i i] of scores [n n], where `true` [n n] bool are no negatives.

    `hardest` in [0, 1] of the loss is of the hardest negatives, the rest of all, each counted by their mean.
    """
    own, negative = scores.diagonal(), scores.masked_fill(true, NEVER)
    total = scores.new_zeros(())
    for of_own, dim in ((own[:, None], 1), (own[None], 0)):
        violation = (margin - of_own + negative).clamp(min=0)
        seen = (negative > NEVER).sum(dim).clamp(min=1)
        total = total + (hardest * violation.amax(dim) + (1 - hardest) * violation.sum(dim) / seen).mean()
    return total


def contrast(scores: Tensor, true: Tensor) -> Tensor:
    """CLIP's symmetric cross entropy over the same negatives: it can't collapse, where every score is the same and the
    hardest negative is at the margin, as the hinge loss does from nothing."""
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    logits = (LOGIT_SCALE * scores).masked_fill(true & ~own, NEVER)
    labels = torch.arange(len(scores), device=scores.device)
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


@dataclass(frozen=True)
class Batch:
    regions: Tensor  # [n k region]
    words: Tensor  # [n w] word indices, of a sentence that is true of each picture
    true: Tensor  # [n n] bool, which sentence is true of which picture


def looked_at(encoder: ImageEncoder, pairs: Pairs, at_once: int = 128) -> Tensor:
    """Regions [n k region] of rendered scenes."""
    found = []
    for rows in torch.arange(len(pairs), device=pairs.relation.device).split(at_once):
        images, _ = render_pairs(pairs.rows(rows))
        with torch.no_grad():
            maps = encoder.maps(images, torch.zeros(len(images), device=images.device), [LAYER])
        found.append(cells(maps[0]).states)
    return torch.cat(found)


def indexed(given: Sentences, device: torch.device) -> Tensor:
    """[n context] word indices."""
    return torch.tensor([indices(line, WORDS, CONFIG.context) for line in given.lines()], device=device)


def true_sentences(pairs: Pairs, generator: torch.Generator) -> Sentences:
    """A true sentence of each scene: of both shapes alike, or of one alone."""

    def chance(*shape: int) -> Tensor:
        return torch.rand(len(pairs), *shape, generator=generator, device=generator.device)

    said = (chance(1, len(ATTRIBUTES)) < torch.tensor(SAID, device=generator.device)).repeat(1, 2, 1)
    alone = chance() < ALONE
    said[:, 1] &= ~alone[:, None]
    article = torch.randint(len(ARTICLES), (len(pairs),), generator=generator, device=generator.device)
    return sentences(pairs, said, (chance() < RELATED) & ~alone, chance() < 0.5, article)


class Pool:
    """Scenes and their twins, seen once by the encoder: each scene as it is, and with something exchanged."""

    def __init__(self, encoder: ImageEncoder, count: int, generator: torch.Generator):
        scenes = draw_pairs(count, generator)
        self.versions = [scenes, swapped(scenes, "colour"), swapped(scenes, "texture"), moved(scenes)]
        self.regions = torch.stack([looked_at(encoder, version) for version in self.versions])

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Half of it are scenes, the other half a twin of each, in the same order."""
        scenes = self.regions.shape[1]
        rows = torch.randperm(scenes, generator=generator, device=generator.device)[: size // 2]
        place, other = torch.randperm(len(self.versions), generator=generator, device=generator.device)[:2].tolist()
        pairs = joined(self.versions[place].rows(rows), self.versions[other].rows(rows))
        given = true_sentences(pairs, generator)
        regions = torch.cat([self.regions[place, rows], self.regions[other, rows]])
        return Batch(regions, indexed(given, generator.device), fits(pairs, given))


def probed(network: Mmca, pool: Pool) -> None:
    """Begins `region_in` as a linear probe: its first rows tell the attributes of the shape in a cell, by ridge
    regression on one pool and at unit variance, so that the first steps needn't find them."""
    found = [_attributes(version) for version in pool.versions]
    x, y = pool.regions.flatten(0, 2), torch.cat(found).flatten(0, 1).to(pool.regions)
    mean, centred = x.mean(0), x - x.mean(0)
    ridge = RIDGE * torch.eye(x.shape[1], device=x.device)
    weight = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ (y - y.mean(0)))
    weight = weight / (centred @ weight).std(0)
    with torch.no_grad():
        network.region_in.weight[: y.shape[1]] = weight.T
        network.region_in.bias[: y.shape[1]] = -mean @ weight


def _attributes(pairs: Pairs) -> Tensor:
    """[n k classes]: what the shape that covers a cell is, zeros where none does."""
    _, masks = render_pairs(pairs)
    covered = adaptive_avg_pool2d(masks, SIDE).flatten(2) > 0.25  # [n 2 k]
    labels = pairs.labels()
    hot = torch.cat([one_hot(labels[:, :, a], len(CLASSES[name])) for a, name in enumerate(ATTRIBUTES)], dim=2)
    return (covered[..., None] * hot[:, :, None]).sum(1).float()


def batches(encoder: ImageEncoder, scenes: int | None, batch: int, generator: torch.Generator) -> Iterator[Batch]:
    """Endless, of so many scenes; None: of more and more, where the oldest are forgotten in the end."""
    pools = [Pool(encoder, scenes, generator)] if scenes else []
    while True:
        if not scenes:
            pools = [*pools[1 - POOLS :], Pool(encoder, KEPT, generator)]
        for place in torch.randint(len(pools), (BATCHES,), generator=generator, device=generator.device).tolist():
            yield pools[place].batch(batch, generator)


def scenes_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scenes", type=int, help="learn from so many scenes and their twins, not from ever new ones")


def matching(network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Both losses of both terms, each by itself."""
    assert isinstance(network, Mmca)
    regions, words = read_by(network, batch)
    first = network.global_scores(regions, words)
    rows, columns = asked(first.detach().masked_fill(batch.true, NEVER), generator)
    pictures, told = network.opened(regions, words)
    crossed = torch.full_like(first, NEVER)
    crossed[rows, columns] = network.cross_scores(pictures[rows], told[columns])

    total, report = first.new_zeros(()), {}
    for name, scores in (("global", first), ("cross", crossed)):
        hinged, contrasted = hinge(scores, batch.true), contrast(scores, batch.true)
        total = total + hinged + contrasted
        report |= {name: hinged, f"{name}_contrast": contrasted, f"{name}_twins": of_twins(scores, batch.true)}
    return total, report | {"whole_twins": of_twins(first + crossed, batch.true)}


def read_by(network: Mmca, batch: Batch) -> tuple[Sets, Sets]:
    """Regions and the states of words."""
    keep = torch.ones(batch.regions.shape[:2], dtype=torch.bool, device=batch.regions.device)
    return Sets(batch.regions, keep), Sets(network.text(batch.words), batch.words > 0)


def of_twins(scores: Tensor, true: Tensor) -> Tensor:
    """Share of sentences that prefer their own picture to its twin, of those which are false of the twin."""
    every = torch.arange(len(scores), device=scores.device)
    twin = every.roll(len(every) // 2)
    known = ~true[twin, every]
    return ((scores.diagonal() > scores[twin, every]) & known).sum() / known.sum().clamp(min=1)


def asked(negatives: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs (picture, sentence) for the cross attention: ASKED pictures of each sentence, its own, its twin's, the
    hardest of the global scores' `negatives` [n n], and others by chance."""
    n = len(negatives)
    every = torch.arange(n, device=negatives.device)
    chance = torch.rand(n, n, generator=generator, device=negatives.device)
    for chosen in (every, every.roll(n // 2), negatives.argmax(0)):
        chance[chosen, every] = 2
    rows = chance.topk(min(ASKED, n), dim=0).indices
    return rows.flatten(), every.expand_as(rows).flatten()


def main() -> None:
    recipe, given = arguments("models/demo/matchers/scenes_matcher.safetensors", RECIPE, scenes_argument)
    torch.manual_seed(recipe.seed)
    checkpoint = load_checkpoint(DEMO / "encoders" / ENCODER, "encoder")
    frozen = checkpoint.build()
    frozen.load_state_dict(checkpoint.state)
    encoder = cast(ImageEncoder, frozen.float().eval().requires_grad_(False).to(given.device))
    metadata = {"architecture": "mmca", "config": json.dumps(asdict(CONFIG))}
    network = Mmca(CONFIG).to(given.device)
    probed(network, Pool(encoder, given.scenes or KEPT, torch.Generator(given.device).manual_seed(recipe.seed)))
    train(Run(network, recipe, given.device, metadata), matching, given, partial(batches, encoder, given.scenes))


if __name__ == "__main__":
    main()
