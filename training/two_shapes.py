"""Pictures of two shapes with known truth, and sentences about both: "a red star left of a blue circle".

Which colour belongs to which shape is what an embedding of the whole picture loses; `swapped` draws the twin of a scene
that differs in nothing else. Shapes, colours and textures are those of `scenes`, coordinates too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .scenes import CLASSES, COLOURS, MAX_ANGLE, SHAPES, TEXTURES, Attributes, draw, render

MIN_SIZE, MAX_SIZE = 0.32, 0.42  # half-sizes: two shapes never touch
RELATIONS = ("left of", "right of", "above", "below")  # of the first shape to the second; opposites are neighbours
ATTRIBUTES = ("shape", "colour", "texture")  # of one shape, in the order of `labels`
ARTICLES = ("a ", "the ", "")
WORDS = ("a", "the", "and", "left", "right", "of", "above", "below", *SHAPES, *COLOURS, *TEXTURES)


@dataclass(frozen=True)
class Pairs:
    """What a batch of scenes shows: two shapes on one background."""

    first: Attributes
    second: Attributes
    relation: Tensor  # [B] long, of the first to the second, in RELATIONS

    def __len__(self) -> int:
        return len(self.relation)

    def rows(self, rows: Tensor) -> Pairs:
        first, second = (
            Attributes(**{name: value[rows] for name, value in vars(one).items()}) for one in (self.first, self.second)
        )
        return Pairs(first, second, self.relation[rows])

    def labels(self) -> Tensor:
        """Class indices [B 2 3] in the order of ATTRIBUTES."""
        shapes = [torch.stack([getattr(one, name) for name in ATTRIBUTES], dim=1) for one in (self.first, self.second)]
        return torch.stack(shapes, dim=1)


def joined(one: Pairs, other: Pairs) -> Pairs:
    """Two batches as one."""
    first, second = (
        Attributes(**{name: torch.cat([value, vars(b)[name]]) for name, value in vars(a).items()})
        for a, b in ((one.first, other.first), (one.second, other.second))
    )
    return Pairs(first, second, torch.cat([one.relation, other.relation]))


def draw_pairs(count: int, generator: torch.Generator) -> Pairs:
    """Two different shapes in two different colours, on a background of a third."""
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, device=device)

    relation = torch.randint(len(RELATIONS), (count,), generator=generator, device=device)
    shapes, colours = uniform(len(SHAPES)).argsort(1), uniform(len(COLOURS)).argsort(1)
    near, far = -0.5 - 0.06 * uniform(), 0.5 + 0.06 * uniform()
    across = (2 * uniform(2) - 1) * 0.3
    forwards = relation % 2 == 0  # the first shape is the one to the left, or above
    jitter = draw(count, generator).jitter
    pair = []
    for k in range(2):
        along = torch.where(forwards == (k == 0), near, far)
        upright = torch.stack([across[:, k], along], dim=1)
        pair.append(
            replace(
                draw(count, generator, shape=shapes[:, k], colour=colours[:, k], background=colours[:, 2]),
                centre=torch.where((relation >= 2)[:, None], upright, upright.flip(1)),
                size=MIN_SIZE + (MAX_SIZE - MIN_SIZE) * uniform(),
                angle=(2 * uniform() - 1) * MAX_ANGLE,
                jitter=torch.stack([draw(count, generator).jitter[:, 0], jitter[:, 1]], dim=1),
            )
        )
    return Pairs(pair[0], pair[1], relation)


def swapped(pairs: Pairs, attribute: str) -> Pairs:
    """The same two places, where the shapes have changed one attribute: the twin of each scene."""
    first, second = getattr(pairs.first, attribute), getattr(pairs.second, attribute)
    return replace(
        pairs,
        first=replace(pairs.first, **{attribute: second}),
        second=replace(pairs.second, **{attribute: first}),
    )


def moved(pairs: Pairs) -> Pairs:
    """The same two shapes, each in the other's place."""
    first, second = (
        replace(one, centre=other.centre) for one, other in ((pairs.first, pairs.second), (pairs.second, pairs.first))
    )
    return Pairs(first, second, pairs.relation ^ 1)


def render_pairs(pairs: Pairs, resolution: int = 32) -> tuple[Tensor, Tensor]:
    """Pictures [B 3 H W] in [-1, 1] and the masks of both shapes [B 2 H W] in [0, 1]."""
    first, second = (render(one, resolution) for one in (pairs.first, pairs.second))
    image = torch.where(second.mask > first.mask, second.image, first.image)
    return image, torch.cat([first.mask, second.mask], dim=1)


@dataclass(frozen=True)
class Sentences:
    """What sentences say of two shapes, or of the first alone: class indices, -1 where they say nothing."""

    labels: Tensor  # [M 2 3] in the order of ATTRIBUTES
    relation: Tensor  # [M] in RELATIONS, -1: "and"
    article: Tensor  # [M] in ARTICLES

    def __len__(self) -> int:
        return len(self.relation)

    def lines(self) -> list[str]:
        found = []
        rows = zip(self.labels.tolist(), self.relation.tolist(), self.article.tolist(), strict=True)
        for (first, second), relation, article in rows:
            link = " and " if relation < 0 else f" {RELATIONS[relation]} "
            nouns = [ARTICLES[article] + _noun(labels) for labels in (first, second) if max(labels) >= 0]
            found.append(link.join(nouns))
        return found


def _noun(labels: list[int]) -> str:
    shape, colour, texture = (
        CLASSES[name][label] if label >= 0 else "" for name, label in zip(ATTRIBUTES, labels, strict=True)
    )
    return " ".join(word for word in (texture, colour, shape) if word)


def sentences(pairs: Pairs, said: Tensor, related: Tensor, turned: Tensor, article: Tensor) -> Sentences:
    """True sentences. `said` [B 2 3] bool: which attributes are named; `related`, `turned` [B] bool: whether the
    relation is, and whether the second shape is named first; `article` [B] in ARTICLES."""
    labels = pairs.labels()
    labels = labels.where(~turned[:, None, None], labels.flip(1)).where(said, -1)
    relation = torch.where(turned, pairs.relation ^ 1, pairs.relation)
    return Sentences(labels, relation.where(related, -1), article)


def fits(pairs: Pairs, given: Sentences) -> Tensor:
    """Which sentence is true of which scene: [B M] bool."""
    truth = pairs.labels()

    def agree(labels: Tensor, relation: Tensor) -> Tensor:
        same = (labels[:, None] == given.labels[None]) | (given.labels[None] < 0)
        related = (relation[:, None] == given.relation[None]) | (given.relation[None] < 0)
        return same.flatten(2).all(2) & related

    return agree(truth, pairs.relation) | agree(truth.flip(1), pairs.relation ^ 1)
