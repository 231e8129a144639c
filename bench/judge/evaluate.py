"""`python dev.py bench judge.evaluate`: how well the judge and the oracles name real scenes; JSON on the last line."""

from __future__ import annotations

import json

import torch

from training.scenes import CLASSES, draw, render

from . import classify, oracles, sha256

SEED = 990_017  # no training script uses it
SCENES = 4096


def evaluate(count: int = SCENES) -> dict[str, object]:
    """Share of correct answers on fresh scenes."""
    scenes = render(draw(count, torch.Generator().manual_seed(SEED)))
    images = (scenes.image * 127.5 + 127.5).round() / 127.5 - 1  # as PNGs hold them
    truth = dict(zip(CLASSES, scenes.attributes.labels().unbind(1), strict=True))
    said = classify(images)
    network = {name: round((said[name] == truth[name]).float().mean().item(), 4) for name in CLASSES}
    few = slice(0, 512)
    plain = {
        "shape": oracles.shape(images[few]),
        "colour": oracles.colour(images[few]),
        "background": oracles.background(images[few]),
    }
    without = {name: round((value == truth[name][few]).float().mean().item(), 4) for name, value in plain.items()}
    overlap = oracles.mask(images) & (scenes.mask[:, 0] > 0.5)
    union = oracles.mask(images) | (scenes.mask[:, 0] > 0.5)
    iou = (overlap.flatten(1).sum(1) / union.flatten(1).sum(1)).mean().item()
    return {"judge_sha256": sha256(), "n": count, "judge": network, "oracles": {**without, "mask_iou": round(iou, 4)}}


if __name__ == "__main__":
    print(json.dumps(evaluate()))
