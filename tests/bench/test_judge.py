"""The judge is what it was when it was committed, and it names real scenes."""

import hashlib

import torch
from conftest import ROOT

from bench import judge
from bench.judge import evaluate, oracles
from training import scenes

PINNED = {
    "judge.safetensors": "7de0f3ce623f55a232b3175407cd9a9f327b6cb8773da6d5ae747944536fb982",
    "network.py": "2926c37b3fdd72b3780d5ee3cdd16652e330b3a59b2fffe1efe738353049b2d7",
    "evaluate.py": "9f66dbdf5fb1361bef66ae72cf0b1ae497b1ad8e9da407091023cc7d92d1ba33",
    "oracles.py": "53cb4e279364b67c3b5b9b998a9a1d6c4a24c2f183d4099e9aa5715c233da764",
}


def test_weights_network_and_scripts_are_the_pinned_ones():
    folder = ROOT / "bench" / "judge"
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in PINNED}
    assert found == PINNED


def test_the_judge_names_real_scenes():
    found = evaluate.evaluate(1024)
    assert found["judge_sha256"] == PINNED["judge.safetensors"]
    assert found["judge"]["shape"] >= 0.97
    assert min(found["judge"][name] for name in ("colour", "background", "texture")) >= 0.98


def test_the_oracles_without_a_network_agree_on_real_scenes():
    found = evaluate.evaluate(512)["oracles"]
    assert found["shape"] >= 0.95 and found["colour"] >= 0.95 and found["background"] >= 0.99


def test_the_judge_is_unsure_about_noise():
    noise = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    confidence = judge.log_probabilities(noise)["shape"].exp().max(1).values
    real = scenes.render(scenes.draw(64, torch.Generator().manual_seed(1))).image
    assert judge.log_probabilities(real)["shape"].exp().max(1).values.mean() > confidence.mean()


def test_the_mask_oracle_finds_the_shape():
    rendered = scenes.render(scenes.draw(256, torch.Generator().manual_seed(2)))
    found, true = oracles.mask(rendered.image), rendered.mask[:, 0] > 0.5
    overlap = (found & true).flatten(1).sum(1) / (found | true).flatten(1).sum(1)
    assert overlap.mean() > 0.85
