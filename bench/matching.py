"""`python dev.py bench matching`: Recall@1 from a sentence to its picture among 100, on unseen scenes of two shapes.

Side by side: the matcher's self attention, its cross attention, both, and the pack's CLIP, which is given the words
that it knows. The hundred are different scenes, or fifty scenes and their twins, which differ in what two shapes
have exchanged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from guidance.match_scores import ranks, recalls
from models.clip_noisy.words import indices
from models.encoder import ImageEncoder
from models.mmca.network import Mmca, Sets
from models.registry import load_checkpoint
from training.captions import WORDS as CLIP_WORDS
from training.matching import ENCODER, looked_at
from training.two_shapes import Pairs, draw_pairs, fits, joined, moved, render_pairs, sentences, swapped

from . import made_with

RESULTS = Path(__file__).parent / "results" / "matching.json"
GALLERY, SEED = 100, 1_000_003
TWINS: dict[str, Callable[[Pairs], Pairs]] = {
    "colours exchanged": lambda pairs: swapped(pairs, "colour"),
    "places exchanged": moved,
}
MATCHER = made_with.DEMO / "matchers" / "scenes_matcher.safetensors"


def loaded(file: Path, kind: str) -> Any:
    checkpoint = load_checkpoint(file, kind)
    network = checkpoint.build()
    network.load_state_dict(checkpoint.state)
    return network.float().eval().requires_grad_(False)


def full(states: Tensor) -> Sets:
    return Sets(states, torch.ones(states.shape[:2], dtype=torch.bool))


def said(pairs: Pairs) -> tuple[list[str], Tensor]:
    """ "a red star left of a blue circle" of each scene, and of which scenes it is true: [n n] bool."""
    some = torch.tensor([True, True, False]).expand(len(pairs), 2, -1)
    yes, article = torch.ones(len(pairs), dtype=torch.bool), torch.zeros(len(pairs), dtype=torch.long)
    given = sentences(pairs, some, yes, ~yes, article)
    return given.lines(), fits(pairs, given)


def by_matcher(
    matcher: Mmca, encoder: ImageEncoder, pairs: Pairs, lines: list[str], second: Mmca | None = None
) -> dict[str, Tensor]:
    """Scores [n n]; `second` has the same words, and its global term is added to the matcher's."""
    words = torch.tensor([indices(line, matcher.config.words, matcher.config.context) for line in lines])
    words = words[:, : int((words > 0).sum(1).max())]
    regions, told = full(looked_at(encoder, pairs)), Sets(matcher.text(words), words > 0)
    first, whole = matcher.global_scores(regions, told), matcher(regions, told)
    twice = {"self attention, twice": first + second.global_scores(regions, told)} if second else {}
    return {"self attention": first, **twice, "cross attention": whole - first, "both": whole}


def by_clip(encoder: ImageEncoder, pairs: Pairs, lines: list[str]) -> Tensor:
    known = [" ".join(word for word in line.split() if word in CLIP_WORDS) for line in lines]
    images, _ = render_pairs(pairs)
    seen = encoder.embed(images, torch.zeros(len(images)))
    return normalize(seen, dim=1) @ normalize(torch.cat([encoder.embed_text(line) for line in known]), dim=1).T


def galleries(pictures: int) -> dict[str, list[Pairs]]:
    """Of each test, a hundred scenes a gallery, the same at every call."""
    generator, count = torch.Generator().manual_seed(SEED), pictures // GALLERY
    result = {"a hundred scenes": [draw_pairs(GALLERY, generator) for _ in range(count)]}
    for name, twin in TWINS.items():
        scenes = [draw_pairs(GALLERY // 2, generator) for _ in range(count)]
        result[name] = [joined(one, twin(one)) for one in scenes]
    return result


def tested(
    matcher: Mmca, encoder: ImageEncoder, tests: dict[str, list[Pairs]], second: Mmca | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    with torch.inference_mode():
        return {name: found(matcher, encoder, scenes, second) for name, scenes in tests.items()}


def found(
    matcher: Mmca, encoder: ImageEncoder, scenes: list[Pairs], second: Mmca | None = None
) -> dict[str, dict[str, float]]:
    """Recalls of each judge over the sentences of all galleries."""
    places: dict[str, list[Tensor]] = {}
    for number, pairs in enumerate(scenes):
        lines, true = said(pairs)
        scores = by_matcher(matcher, encoder, pairs, lines, second)
        scores["the pack's CLIP"] = by_clip(encoder, pairs, lines)
        for name, values in scores.items():
            places.setdefault(name, []).append(ranks(values.T, true.T))
        print(f"[bench] gallery {number + 1} of {len(scenes)}", file=sys.stderr, flush=True)
    return {name: recalls(torch.cat(values)) for name, values in places.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench matching")
    parser.add_argument("--count", type=int, default=1000, help="pictures, a hundred a gallery")
    parser.add_argument("--matcher", type=Path, default=MATCHER)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    matcher, encoder = loaded(given.matcher, "matcher"), loaded(made_with.DEMO / "encoders" / ENCODER, "encoder")
    tests = galleries(given.count)
    pictures = sum(len(pairs) for pairs in next(iter(tests.values())))
    result: dict[str, Any] = {"pictures": pictures, "gallery": GALLERY, **tested(matcher, encoder, tests)}
    if given.matcher == MATCHER:
        result["made_with"] = made_with.hashes((MATCHER, made_with.CLIP))
    given.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
