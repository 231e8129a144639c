"""Energies that are no log-probabilities stay finite in the host, in the paper's unit and at the noisy sample."""

import json

import pytest
import torch
from guided_sampling import applied, guide_of, published, sample

pytestmark = pytest.mark.host


BAD = [("dpmpp_2m", 8), ("euler_ancestral", 8), ("euler", 12), ("heun", 6)]
MORE = [("dpmpp_2m", 12), ("dpmpp_2m", 20), ("dpmpp_2m", 30), ("euler", 8)]
MORE += [("euler_ancestral", 12), ("euler_ancestral", 20), ("euler_ancestral", 30)]


@pytest.mark.parametrize("sampler, steps", [*BAD, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)])
def test_a_style_guide_as_the_help_recommends_it_stays_within_the_data(execute, encoder, models, sampler, steps):
    """Weight 1, window 0 to 1; on the version before, these runs went to 1e28 or NaN."""
    model, _ = models["scenes_unet"]
    steered = applied(execute, model, guide_of(execute, encoder, "style"))
    found = sample(execute, steered, sampler=sampler, steps=steps, batch=4)
    assert torch.isfinite(found).all() and found.abs().max() < 4


def test_the_report_counts_what_was_limited(execute, encoder, models):
    model, _ = models["scenes_unet"]
    for kind, limited in (("style", True), ("classifier", False)):
        steered = applied(execute, model, guide_of(execute, encoder, kind))
        samples = sample(execute, steered, steps=6)
        _, text = execute("Guidance_GuideReport", model=steered, samples={"samples": samples})
        (rows,) = json.loads(text)["guides"].values()
        assert any(row["capped"] for row in rows) == limited


@pytest.mark.parametrize("name", ["ddim, eta 1", "ddpm, learned"])
def test_a_text_guide_by_the_published_rules_is_never_limited(execute, encoder, models, name):
    model, _ = models["scenes_unet"]
    steered = applied(execute, model, guide_of(execute, encoder, "text"))
    (sigmas,) = execute("Guidance_RespacedSigmas", model=model, respacing="25")
    samples = published(execute, steered, name, sigmas)
    _, text = execute("Guidance_GuideReport", model=steered, samples={"samples": samples})
    (rows,) = json.loads(text)["guides"].values()
    assert not any(row["capped"] for row in rows)
