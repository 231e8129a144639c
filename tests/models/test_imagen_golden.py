"""DeepFloyd IF's networks, loops and captions print what deep-floyd/IF printed."""

import json
from functools import partial

import golden_files
import pytest
import torch
from conftest import ROOT
from imagen_golden import CASE, Published, clipped, unet

from pack.guidance.sampling import respaced, sample_ddpm
from pack.models.imagen.captions import cleaned, once

CAPTIONS = json.loads((ROOT / "tests" / "golden" / "texts.json").read_text("utf-8"))["if_cleaned"]


def texts(golden):
    return torch.cat([golden["text"], golden["null"].expand(2, -1, -1)])


def test_stage_one_is_the_published_one():
    arguments, golden = golden_files.load(CASE)
    network = unet(arguments, "one")
    text = network.read(texts(golden))
    out = network(golden["one.forward.x"], golden["one.forward.t"], text)
    assert golden_files.relative_error(text.pooled[:2], golden["one.text.pooled"]) < 1e-5
    assert golden_files.relative_error(out, golden["one.forward.out"]) < 1e-5


@pytest.mark.parametrize(("step", "name"), [(250, "two.forward.out"), (0, "two.forward.out_aug0")])
def test_stage_two_is_the_published_one(step, name):
    """Level 0 still adds the chain's least noise."""
    run = Published("two")
    run.arguments["aug_level"] = step / 1000
    golden, low = run.golden, [run.small(noise) for noise in run.golden["two.aug_noise.fixed"].chunk(2)]
    text = run.network.read(texts(golden), torch.full((4,), step))
    out = run.network(torch.cat([golden["two.forward.x"], torch.cat(low)], 1), golden["two.forward.t"], text)
    assert golden_files.relative_error(out, golden[name]) < 3e-5


@pytest.mark.parametrize("kind", ["dynamic", "static", "positive"])
@torch.no_grad()
def test_a_whole_run_of_stage_one_is_the_published_one(kind):
    run = Published("one")
    cap = 1.0 if kind == "static" else run.arguments["threshold_c"]
    positive = run.golden["positive"] if kind == "positive" else None
    run.rows = 3 if kind == "positive" else 2
    final = sample_ddpm(partial(run.predict, cap=cap, positive=positive), run.x_T, run.sigmas, run.noise)
    assert golden_files.relative_error(final, run.golden[f"one.ddpm.{kind}"]) < 5e-3


@pytest.mark.parametrize("kind", ["fixed_aug", "fresh_aug"])
@torch.no_grad()
def test_a_whole_run_of_stage_two_is_the_published_one(kind):
    run = Published("two")
    calls = iter(range(100))

    def noises():
        if kind == "fixed_aug":
            return [run.golden["two.aug_noise.fixed"][: run.half]] * 2
        return golden_files.draw(run.shape, run.arguments["seed"] + 5000 + next(calls)).chunk(2)

    final = sample_ddpm(lambda x, sigma: run.predict(x, sigma, 1.0, noises()), run.x_T, run.sigmas, run.noise)
    assert golden_files.relative_error(final, run.golden[f"two.ddpm.{kind}"]) < 5e-3


@pytest.mark.parametrize(("percentile", "cap"), [(0.95, 1), (0.95, 1.5), (0.995, 1.7), (0.995, 100)])
def test_the_threshold_is_the_published_one(percentile, cap):
    _, golden = golden_files.load(CASE)
    found = clipped(golden["threshold.x"], percentile, cap)
    assert golden_files.relative_error(found, golden[f"threshold.p{percentile}_c{cap}"]) < 1e-6


@pytest.mark.parametrize("example", CAPTIONS, ids=lambda example: example["published"])
def test_captions_are_cleaned_as_published(example):
    assert once(example["caption"]) == example["once"]
    assert cleaned(example["caption"]) == example["published"]


def test_nothing_remains_of_a_chinese_caption():
    assert cleaned("一只猫") == ""


@pytest.mark.parametrize(
    ("name", "count", "begin"),
    [("smart50", 50, [0, 11, 22]), ("super40", 40, [0, 99, 100]), ("smart27", 27, [0, 24, 47]), ("super27", 27, [0])],
)
def test_ifs_named_steps_are_its_sections(name, count, begin):
    """So many at each end, and both ends."""
    kept = respaced(name)
    assert len(kept) == count and kept[: len(begin)] == begin and kept[-1] == 999
    assert kept == sorted(set(kept))
