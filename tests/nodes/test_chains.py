"""A run that is cut in two draws what the whole run draws, with guides too."""

import pytest
import torch
from guided_sampling import PUBLISHED, applied, picture, sample, text_guide

pytestmark = pytest.mark.host


def split(sigmas, place):
    """By the host's own node."""
    from comfy_extras.nodes_custom_sampler import SplitSigmas

    return SplitSigmas.execute(sigmas, place).args


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("place", [1, 4, 5])
def test_a_cut_run_is_the_whole_run(draw, sigmas, name, place):
    high, low = split(sigmas, place)
    assert torch.equal(draw(name, low, draw(name, high)), draw(name, sigmas))


def test_a_run_cut_by_denoise_into_three_is_the_whole_run(draw, sigmas):
    from comfy_extras.nodes_custom_sampler import SplitSigmasDenoise

    high, low = SplitSigmasDenoise.execute(sigmas, 0.7).args
    low, last = SplitSigmasDenoise.execute(low, 0.5).args
    found = draw("ddpm, learned", last, draw("ddpm, learned", low, draw("ddpm, learned", high)))
    assert torch.equal(found, draw("ddpm, learned", sigmas))


def test_the_second_sampler_of_a_chain_may_draw_one_image_of_the_batch(draw, sigmas):
    """With its own seed, seed + i."""
    high, low = split(sigmas, 3)
    half = draw("ddpm, learned", high)
    alone = draw("ddpm, learned", low, half[1:], seed=6, batch=1)
    torch.testing.assert_close(alone, draw("ddpm, learned", sigmas)[1:], rtol=0, atol=1e-5)


def guided(execute, models, encoder, kind):
    model, _ = models["scenes_unet"]
    if kind == "classifier":
        (classifier,) = execute("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")
        return applied(
            execute,
            model,
            execute("Guidance_ClassifierGuide", classifier=classifier, class_label="star", weight=8.0)[0],
        )
    if kind == "reference":
        (guides,) = execute("Guidance_ContentGuide", encoder=encoder, image=picture(), weight=3.0)
        return applied(execute, model, guides)
    if kind == "recurrence":
        return applied(execute, model, text_guide(execute, encoder), recurrence=2)
    return applied(execute, model, text_guide(execute, encoder), gradient="at denoised", views=3)


@pytest.mark.parametrize("kind", ["classifier", "reference", "views"])
@pytest.mark.parametrize("name", ["ddpm, learned", "ddim, eta 0"])
def test_guides_in_a_cut_run_do_what_they_do_in_the_whole_run(draw, sigmas, execute, models, encoder, name, kind):
    model = guided(execute, models, encoder, kind)
    high, low = split(sigmas, 3)
    whole = draw(name, sigmas, model=model)
    assert not torch.equal(whole, draw(name, sigmas))
    assert torch.equal(draw(name, low, draw(name, high, model=model), model=model), whole)


@pytest.mark.parametrize("kind", ["reference", "views", "recurrence"])
def test_guides_in_a_chain_of_the_hosts_samplers_do_what_they_do_in_the_whole_run(execute, models, encoder, kind):
    """KSampler (Advanced) twice: the second adds no noise."""
    model = guided(execute, models, encoder, kind)
    sigmas = torch.tensor([12.0, 7.0, 3.0, 1.2, 0.4, 0.0])
    whole = sample(execute, model, sigmas=sigmas)
    half = sample(execute, model, sigmas=sigmas[:4])
    rest = sample(execute, model, sigmas=sigmas[3:], latent=half, noise=torch.zeros_like(half))
    torch.testing.assert_close(rest, whole, rtol=0, atol=1e-5)


def test_every_counts_the_steps_of_a_run_and_says_where_one_begins_in_the_middle(execute, models, encoder, caplog):
    model = applied(execute, models["scenes_unet"][0], text_guide(execute, encoder), every=2)
    sample(execute, model, steps=3)
    assert not [record for record in caplog.records if "every counts" in record.getMessage()]
    with caplog.at_level("INFO"):
        half = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        sample(execute, model, sigmas=torch.tensor([3.0, 1.0, 0.0]), latent=half, noise=torch.zeros_like(half))
    assert [record for record in caplog.records if "every counts the steps of this run" in record.getMessage()]
