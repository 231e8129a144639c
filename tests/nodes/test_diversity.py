"""Diversity Guide, in the host: pictures of one batch go apart, and one alone is left as it is."""

import json
import logging

import pytest
import torch
from guided_sampling import KINDS, applied, sample

pytestmark = pytest.mark.host
SPACES = ["colours", "encoder"]


def guides(execute, encoder, space, **options):
    given = {"start_percent": 0.0, "end_percent": 1.0, **options}
    return execute("Guidance_DiversityGuide", **given, **({"encoder": encoder} if space == "encoder" else {}))[0]


def apart(samples):
    return torch.pdist(samples.flatten(1)).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", SPACES)
def test_what_is_off_and_a_batch_of_one_change_no_bit(execute, encoder, models, kind, space):
    model, vae = models[kind]
    one = applied(execute, model, guides(execute, encoder, space), vae)
    assert torch.equal(sample(execute, one, batch=1), sample(execute, model, batch=1))
    off = applied(execute, model, guides(execute, encoder, space, weight=0.0), vae)
    assert torch.equal(sample(execute, off), sample(execute, model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", SPACES)
def test_pictures_of_a_batch_are_less_alike_on_every_kind_of_model(execute, encoder, models, kind, space):
    model, vae = models[kind]
    last = {}
    for scale in (1.0, 1e-9):
        steered = applied(execute, model, guides(execute, encoder, space), vae, strength=scale)
        samples = sample(execute, steered, steps=4, batch=4)
        _, text = execute("Guidance_GuideReport", model=steered, samples={"samples": samples})
        last[scale] = json.loads(text)["guides"]["diversity"][-1]["loss"]
    assert last[1.0] < last[1e-9]


def test_colours_go_apart_in_few_steps(execute, encoder, models):
    model, _ = models["scenes_flow"]
    steered = applied(execute, model, guides(execute, encoder, "colours"))
    assert apart(sample(execute, steered, batch=8)) > 1.2 * apart(sample(execute, model, batch=8))


def test_a_picture_depends_on_its_batch_and_the_log_says_so(execute, encoder, models, caplog):
    model, _ = models["scenes_flow"]
    steered = applied(execute, model, guides(execute, encoder, "colours"))
    noise = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with caplog.at_level(logging.INFO):
        three = sample(execute, steered, latent=torch.zeros_like(noise), noise=noise)
    two = sample(execute, steered, latent=torch.zeros_like(noise[:2]), noise=noise[:2])
    assert (three[:2] - two).abs().max() > 0.05
    assert "pictures of this batch depend on each other" in caplog.text


def test_the_order_of_the_batch_means_nothing(execute, encoder, models, one_by_one):
    model, _ = models["scenes_flow"]
    steered = one_by_one(applied(execute, model, guides(execute, encoder, "encoder")))
    noise = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found, turned = (
        sample(execute, steered, steps=2, latent=torch.zeros_like(noise), noise=start)
        for start in (noise, noise.flip(0))
    )
    torch.testing.assert_close(turned.flip(0), found, rtol=0, atol=1e-4)


def test_it_sees_the_whole_batch_where_the_host_shows_the_network_one_row_at_a_time(
    execute, encoder, models, one_by_one
):
    """With CFG the host hands both conditions of all pictures to the network, in as many parts as it likes."""
    import comfy.samplers

    model, _ = models["scenes_flow"]
    conditions = [execute("Guidance_ClassConditioning", model=model, class_label=label)[0] for label in ("star", "")]
    noise = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    sigmas, steered = torch.tensor([0.7, 0.0]), applied(execute, model, guides(execute, encoder, "encoder"))
    found = []
    for one in (steered, one_by_one(steered)):
        guider = comfy.samplers.CFGGuider(one)
        guider.set_conds(*conditions)
        guider.set_cfg(3.0)
        euler = comfy.samplers.sampler_object("euler")
        with torch.inference_mode():
            found.append(guider.sample(noise, torch.zeros_like(noise), euler, sigmas, disable_pbar=True, seed=1))
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


@pytest.mark.parametrize("space", SPACES)
def test_equal_noise_stays_equal(execute, encoder, models, one_by_one, space):
    """Nothing tells which of two equal pictures should go where."""
    model, _ = models["scenes_flow"]
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)).repeat(2, 1, 1, 1)
    steered = one_by_one(applied(execute, model, guides(execute, encoder, space)))
    options = {"latent": torch.zeros_like(noise), "noise": noise}
    assert torch.equal(sample(execute, steered, **options), sample(execute, one_by_one(model), **options))


def test_a_report_of_a_batch_of_one_says_why_nothing_was_done(execute, encoder, models):
    model, _ = models["scenes_flow"]
    steered = applied(execute, model, guides(execute, encoder, "colours"))
    samples = sample(execute, steered, batch=1)
    _, text = execute("Guidance_GuideReport", model=steered, samples={"samples": samples})
    assert "a Diversity Guide had one picture alone" in json.loads(text)["note"]


def test_frames_of_one_video_do_not_push_each_other_apart(pack_nodes):
    """Only the same frames of different videos are compared, in the same view."""
    from pack.guidance.diversity_energy import repulsion
    from pack.guidance.weight import Weight
    from pack.nodes.host.guides.energies import Near, Sight, clean_energy
    from pack.nodes.host.guides.guide import Guide

    guide = Guide(
        name="diversity",
        weight=Weight(1.0),
        measure=lambda pictures, sigma: [pictures.flatten(1)],
        compare=lambda found, wanted: repulsion(found[0]),
        size=4,
        noise_aware=False,
        scale=1.0,
        wanted=[],
        across=True,
    )
    frames = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))  # 3 videos of 2 frames
    sight = Sight([guide], torch.tensor([[0.0, 0.0, 1.0, 1.0]]), Near())
    found = clean_energy(guide, sight)(frames.flatten(0, 1), torch.zeros(3))
    expected = torch.stack([repulsion(frames[:, place].flatten(1)) for place in (0, 1)]).mean(0)
    torch.testing.assert_close(found, expected)
