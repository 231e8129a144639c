"""What features ask of a device, held: operations and synchronisations of a step on narrow networks of public depth."""

from dataclasses import replace

import pytest
import torch
from hosts import needs_the_middle

pytestmark = pytest.mark.host
EDIT, SYMMETRIC = "h-space edit", "h-space edit, symmetric"
PATCH, COMBINER = "CFG Patch, constant", "CFG Combiner, constant"


@pytest.fixture(scope="module")
def runs(pack_nodes):
    """Of SD1.5's shape at CFG 7."""
    from bench.costs import ALWAYS, SCALE, Runs

    with torch.inference_mode():
        yield Runs(pack_nodes, cfg=SCALE, window=ALWAYS, latent=(4, 8, 8))


@pytest.fixture(scope="module")
def counts(runs):
    """Above the plain step, and that step."""
    from bench.costs import CFG, EDITS
    from bench.launches import latent_counts

    outside = {"outside": lambda runs: runs.guider(runs.edited(start_percent=0.99, end_percent=1.0))}
    return latent_counts(runs, {**EDITS, **CFG, **outside})


@pytest.mark.parametrize("name", [EDIT, SYMMETRIC])
def test_an_edit_asks_for_a_decoder_half_and_waits_for_nothing(counts, name):
    needs_the_middle()
    found, plain = counts[name], counts["plain"]
    assert 0.4 * plain["operations"] < found["operations"] <= 0.65 * plain["operations"]
    assert found["waits"] == 0 and found["once"] <= 10 and found["waits_once"] <= 2


@pytest.mark.parametrize("name", ["outside", PATCH])
def test_outside_its_window_an_edit_and_constant_cfg_by_a_patch_ask_for_nothing(counts, name):
    assert counts[name]["operations"] == counts[name]["waits"] == 0


def test_constant_cfg_by_the_combiner_asks_for_a_few_numbers(counts):
    assert counts[COMBINER]["operations"] <= 12 and counts[COMBINER]["waits"] == 0


def test_in_half_precision_both_decoder_halves_of_an_edit_are_one_pass(runs):
    """One pass in float32, of a number of operations that casting its weights adds to."""
    needs_the_middle()
    from bench.costs import EDITS
    from bench.launches import latent_counts

    counts = latent_counts(replace(runs, dtype=torch.bfloat16), {EDIT: EDITS[EDIT]})
    assert counts[EDIT]["operations"] <= 1.1 * counts["plain"]["operations"] and counts[EDIT]["waits"] == 0


def test_classifier_guidance_waits_for_nothing(pack_nodes):
    from bench.costs import ALWAYS, ADMRuns
    from bench.launches import counted

    with torch.inference_mode():
        adm = ADMRuns(pack_nodes, latent=(3, 64, 64), window=ALWAYS)
        for algorithm in ("ddim", "ddpm"):
            guider, sampler = adm.classified(algorithm)
            found = counted(lambda sigmas, g=guider, s=sampler: adm.run(g, sigmas, s))
            assert found["waits"] == 0, algorithm
