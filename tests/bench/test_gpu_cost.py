"""The benchmark of a GPU, in small: every part can be made, and without a GPU it says so."""

import sys

import pytest
import torch

pytestmark = pytest.mark.host


@pytest.fixture
def bench(pack_nodes):
    """With features that need no encoder."""
    from bench.costs import CFG, EDITS, SCALE, Runs
    from bench.gpu_cost import TINY, Bench

    features = {"h-space edit": EDITS["h-space edit"], "CFG Combiner": CFG["CFG Combiner, constant"]}
    return Bench(Runs(pack_nodes, cfg=SCALE), TINY, features)


def held(row):
    return row["pairs"] == 1 and 0 < row["low"] <= row["median"] <= row["high"] and row["first_seconds"] > 0


def test_the_table_has_time_and_memory_of_each_feature_on_each_model(bench):
    with torch.inference_mode():
        found = [bench.sd15(bench.growing), bench.sdxl({"h-space edit": bench.growing["h-space edit"]}), bench.adm()]
    assert [list(part) for part in found] == [list(bench.growing), ["h-space edit"], ["classifier-guided"]]
    rows = [row for part in found for row in part.values()]
    assert all(held(row) and {"plain_mb", "above_plain_mb"} <= set(row) for row in rows)


def test_growth_is_measured_for_each_value_and_can_be_plotted(bench):
    from bench.gpu_cost import plot

    with torch.inference_mode():
        grown = {"pictures in a batch": bench.growth_of_batch(), "steps": bench.growth_of_steps()}
    assert [list(part) for part in grown.values()] == [["1", "2"], ["2", "3"]]
    assert all(held(row) for part in grown.values() for rows in part.values() for row in rows.values())
    assert len(plot(grown).axes) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_sentence_says_what_to_do(monkeypatch):
    from bench.gpu_cost import main

    monkeypatch.setattr(sys, "argv", ["gpu_cost"])
    with pytest.raises(SystemExit, match="PyTorch finds none here; run it where one is, or with --tiny"):
        main()
