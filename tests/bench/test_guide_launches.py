"""What guides ask of a device, held: operations and synchronisations of a step above the plain one."""

import pytest
import torch

pytestmark = pytest.mark.host
MOST = {"text guide": 620, "style guide": 420, "structure guide": 620}  # measured: 557, 357 and 545; 750 is the promise


@pytest.fixture(scope="module")
def counts(pack_nodes):
    """Of SD1.5's, ViT-B/16's and TAESD's depth, a few channels wide."""
    from bench.costs import ALWAYS, GUIDES, SCALE, Runs
    from bench.launches import latent_counts, others

    with torch.inference_mode():
        runs = Runs(pack_nodes, cfg=SCALE, window=ALWAYS, latent=(4, 16, 16))
        both = {name: {**GUIDES, **others()}[name] for name in (*MOST, "text + style", "two Apply Guides")}
        return latent_counts(runs, both)


@pytest.mark.parametrize("name", MOST)
def test_a_guide_asks_for_one_pass_of_decoder_and_encoder_and_waits_for_nothing(counts, name):
    assert counts[name]["operations"] <= MOST[name]
    assert counts[name]["waits"] == 0 and counts[name]["waits_once"] <= 2


def test_two_guides_of_an_encoder_cost_little_more_than_the_dearer_one(counts):
    dearer = max(counts[name]["operations"] for name in ("text guide", "style guide"))
    assert counts["text + style"]["operations"] <= 1.25 * dearer


def test_two_apply_guides_decode_the_picture_once(counts):
    """Its forward pass is some ninety operations."""
    apart = counts["text guide"]["operations"] + counts["style guide"]["operations"]
    assert counts["two Apply Guides"]["operations"] <= apart - 60
