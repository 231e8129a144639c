"""The losses are what they were before a step became one graph: recorded numbers, and references one sample at a time.

`losses.json` was recorded from commit 0fdfbea, whose balance and captions were loops in Python, on a CPU with AVX-512.
"""

import json
from pathlib import Path

import pytest
import torch
from training_tasks import TASKS, losses

from models.clip_noisy.words import indices
from training import captions, unet
from training.balance import Balance
from training.scenes import CLASS_NAMES, CLASSES, draw

RECORDED = json.loads(Path(__file__).with_name("losses.json").read_text())
OTHER_CPUS = 2e-5  # relative; 2e-6 between instruction sets (SSE4.1, AVX2, AVX-512), 0 on the recording one


@pytest.mark.parametrize("name", TASKS)
def test_the_losses_of_the_first_steps_are_those_recorded(name, tmp_path):
    torch.testing.assert_close(
        torch.tensor(losses(name, len(RECORDED[name]), tmp_path / "a.safetensors")),
        torch.tensor(RECORDED[name]),
        rtol=OTHER_CPUS,
        atol=0,
    )


def test_the_balance_goes_on_as_if_values_came_one_after_another():
    balance = Balance(1000, "cpu")
    typical, seen = [1.0] * balance.BUCKETS, [0] * balance.BUCKETS
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        t = (torch.rand(64, generator=generator) ** 3 * 1000).long()  # some levels often, some never
        mse = torch.rand(64, generator=generator) + 0.01
        found = balance(mse, t)
        for level, value in zip((t * balance.BUCKETS // 1000).tolist(), mse.tolist(), strict=True):
            seen[level] += 1
            typical[level] += max(0.02, 1 / seen[level]) * (value - typical[level])
        levels = (t * balance.BUCKETS // 1000).tolist()
        mean = sum(typical) / balance.BUCKETS
        expected = [
            value * (0.5 + 0.5 * min(mean / typical[k], 20)) for k, value in zip(levels, mse.tolist(), strict=True)
        ]
        torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-6, atol=0)
    assert balance.seen.tolist() == seen


def test_every_caption_of_the_table_is_the_words_of_its_phrase():
    table, context = captions.Captions(16, "cpu"), 16
    generator = torch.Generator().manual_seed(0)
    labels = draw(500, generator).labels()
    keep, short = torch.rand(500, 4, generator=generator) < 0.6, torch.rand(500, generator=generator) < 0.3
    lists = list(CLASSES.values())
    for row, said, brief, words in zip(
        labels.tolist(), keep.tolist(), short.tolist(), table.words(labels, keep, short).tolist(), strict=True
    ):
        names = [lists[k][row[k]] if said[k] else None for k in range(4)]
        assert words == indices(captions.phrase(names, brief), captions.WORDS, context)


@pytest.mark.parametrize("short", [False, True])
def test_single_captions_name_one_class_each(short):
    found = captions.Captions(16, "cpu").singles(torch.tensor(short)).tolist()
    lines = captions.single_captions(short)
    assert len(lines) == len(CLASS_NAMES) and all(name in line for name, line in zip(CLASS_NAMES, lines, strict=True))
    assert found == [indices(line, captions.WORDS, 16) for line in lines]


def test_a_label_is_chosen_as_by_a_table_of_bounds():
    """The way it was written before: bucketize and a row of offsets."""
    labels = draw(2000, torch.Generator().manual_seed(0)).labels()
    offsets = torch.tensor([unet.first_index(name) for name in CLASSES])
    bounds = torch.tensor(list(unet.SHARES.values())).cumsum(0)
    chosen = torch.bucketize(torch.rand(2000, generator=torch.Generator().manual_seed(1)), bounds)
    named = (labels + offsets).gather(1, chosen.clamp(max=3)[:, None])[:, 0]
    expected = torch.where(chosen < 4, named, unet.NO_CLASS)
    assert torch.equal(unet.choose_labels(labels, torch.Generator().manual_seed(1)), expected)
