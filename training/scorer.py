"""Fits the pack's scorer: logistic regression on the frozen scenes CLIP's embeddings of clean scenes, one softmax for
each attribute (a linear probe, Alain & Bengio 2016, arXiv 1610.01644).

It learns from one half of the scenes alone, those whose shape and colour have numbers with an even sum; the record is
of the other half, whose combinations it never saw.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from models.encoder import ImageEncoder
from models.registry import DEMO, load_checkpoint
from models.saving import replace_file
from models.scorer.network import HeadConfig, head

from .classifier import GROUP_SIZES
from .loop import commit
from .scenes import CLASS_NAMES, CLASSES, draw, render

CONFIG = HeadConfig(widths=(64, len(CLASS_NAMES)))
DECAY, ROUNDS, AT_ONCE = 1e-4, 300, 256  # of the squared weights; of L-BFGS; pictures in a batch


def embedded(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings [n 64] of length 1 of fresh clean scenes, and their labels [n 4]."""
    checkpoint = load_checkpoint(DEMO / "encoders" / "scenes_clip.safetensors", "encoder")
    network = checkpoint.build()
    network.load_state_dict(checkpoint.state)
    encoder = cast(ImageEncoder, network.float().eval())
    scenes = render(draw(count, torch.Generator().manual_seed(seed)))
    with torch.inference_mode():
        parts = [encoder.embed(part, torch.zeros(len(part), dtype=torch.long)) for part in scenes.image.split(AT_ONCE)]
    return normalize(torch.cat(parts), dim=1).clone(), scenes.attributes.labels()


def learned(labels: Tensor) -> Tensor:
    """The half that is learned from, [n] bool."""
    return (labels[:, 0] + labels[:, 1]) % 2 == 0


def fit(network: torch.nn.Module, seen: Tensor, labels: Tensor) -> None:
    """The mean over attributes of -log p(label | embedding) to its minimum: it is convex."""
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        groups = network(seen).split(GROUP_SIZES, dim=1)
        wrong = torch.stack([cross_entropy(part, labels[:, k]) for k, part in enumerate(groups)]).mean()
        found = wrong + DECAY * torch.cat([part.flatten() for part in network.parameters()]).square().sum()
        found.backward()
        return found

    optimizer.step(loss)


def right(network: torch.nn.Module, seen: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of right answers by attribute."""
    with torch.no_grad():
        groups = network(seen).split(GROUP_SIZES, dim=1)
    return {
        name: round((part.argmax(1) == labels[:, k]).float().mean().item(), 4)
        for k, (name, part) in enumerate(zip(CLASSES, groups, strict=True))
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("models/demo/scorers/scenes_scorer.safetensors"))
    parser.add_argument("--count", type=int, default=8192, help="scenes, of which one half is learned from")
    parser.add_argument("--seed", type=int, default=41)
    given = parser.parse_args()
    start = time.monotonic()
    torch.manual_seed(given.seed)
    network = head(CONFIG)
    seen, labels = embedded(given.count, given.seed)
    half = learned(labels)
    fit(network, seen[half], labels[half])
    record = {
        "images": int(half.sum()),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "device": "cpu",
        "recipe": {"decay": DECAY, "rounds": ROUNDS, "seed": given.seed},
        "right_in_the_other_half": right(network, seen[~half], labels[~half]),
        "commit": commit(),
        "licence": "MIT, trained on the pack's own rendered scenes",
    }
    metadata = {
        "architecture": "scorer_linear",
        "config": json.dumps(asdict(CONFIG)),
        "class_names": json.dumps(CLASS_NAMES),
        "class_groups": json.dumps(GROUP_SIZES),
        "training": json.dumps(record),
    }
    replace_file({key: value.half() for key, value in network.state_dict().items()}, given.out, metadata)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
