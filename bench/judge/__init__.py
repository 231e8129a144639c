"""The judge: says what a 32x32 scene shows, independently of every guide and of all training.

No guide, encoder or training script may import it (`tests/test_layers.py`), and its files are pinned by hash
(`tests/bench/test_judge.py`): whatever is tuned, this stays.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from training.scenes import CLASSES

from .network import Judge

WEIGHTS = Path(__file__).with_name("judge.safetensors")


def sha256() -> str:
    """Of the weights."""
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


@cache
def load() -> Judge:
    with safe_open(WEIGHTS, "pt") as file:
        state = {key: file.get_tensor(key).float() for key in file.keys()}
        judge = Judge(len(json.loads(file.metadata()["class_names"])))
    judge.load_state_dict(state, strict=True)
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def log_probabilities(images: Tensor) -> dict[str, Tensor]:
    """images [B 3 32 32] in [-1, 1] -> log p [B classes] for each attribute."""
    logits = load()(images.clamp(-1, 1)).split([len(names) for names in CLASSES.values()], dim=1)
    return {name: part.log_softmax(1) for name, part in zip(CLASSES, logits, strict=True)}


def classify(images: Tensor) -> dict[str, Tensor]:
    """images [B 3 32 32] in [-1, 1] -> class index [B] for each attribute."""
    return {name: value.argmax(1) for name, value in log_probabilities(images).items()}
