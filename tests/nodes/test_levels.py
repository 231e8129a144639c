"""Lists of noise levels that are not simply falling: the samplers take them, or say what to use."""

import pytest
import torch
from guided_sampling import PUBLISHED, applied, sample, text_guide

pytestmark = pytest.mark.host
STOCHASTIC = [name for name in PUBLISHED if name != "ddim, eta 0"]


def flipped(levels):
    from comfy_extras.nodes_custom_sampler import FlipSigmas

    return FlipSigmas.execute(levels.clone()).args[0]


def scene():
    from training import scenes

    return scenes.render(scenes.draw(2, torch.Generator().manual_seed(5))).image


def test_ddim_over_flipped_sigmas_unsamples_a_picture_as_ddim_inversion_does(draw, execute, models):
    model, image = models["scenes_unet"][0], scene()
    (falling,) = execute("Guidance_RespacedSigmas", model=model, respacing="12")
    found = draw("ddim, eta 0", flipped(falling)[1:], image * (1 + float(falling[-2]) ** 2) ** 0.5)
    (plain,) = execute("Guidance_ClassConditioning", model=model, class_label="star")
    _, latent = execute(
        "Guidance_DDIMInversion", model=model, image=(image.movedim(1, -1) + 1) / 2, conditioning=plain, respacing="12"
    )
    torch.testing.assert_close(found, latent["samples"], rtol=1e-4, atol=1e-3)


def test_what_flipped_sigmas_unsampled_is_drawn_again(draw, execute, models):
    image = scene()
    (falling,) = execute("Guidance_RespacedSigmas", model=models["scenes_unet"][0], respacing="60")
    noisy = draw("ddim, eta 0", flipped(falling), image)
    assert noisy.std() > 0.5 * falling[0]
    again = draw("ddim, eta 0", falling, noisy)
    assert (again - image).square().mean() < 0.02


@pytest.mark.parametrize("name", STOCHASTIC)
def test_fresh_noise_on_the_way_up_is_refused_with_what_to_use(draw, sigmas, name):
    with pytest.raises(ValueError, match="the noise levels rise .* use DDIM Inversion, or DDIM Sampler with eta 0"):
        draw(name, flipped(sigmas), scene())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_repeated_level_makes_no_step(draw, sigmas, name):
    repeated = torch.cat([sigmas[:1], sigmas[:3], sigmas[2:], sigmas[-1:]])
    assert torch.equal(draw(name, repeated), draw(name, sigmas))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_level_of_0_before_the_end_is_refused(draw, sigmas, name):
    with pytest.raises(ValueError, match="reach 0 at number 3 of 5"):
        draw(name, torch.tensor([10.0, 5.0, 0.0, 5.0, 0.0]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_list_of_one_level_makes_no_step(draw, sigmas, name):
    latent = scene()
    assert torch.equal(draw(name, sigmas[2:3], latent), latent)


def test_a_part_that_rises_between_falling_ones_is_a_step_like_others_with_eta_0(draw):
    levels = torch.tensor([10.0, 3.0, 6.0, 2.0, 0.0])
    assert torch.isfinite(draw("ddim, eta 0", levels)).all()
    with pytest.raises(ValueError, match="rise .from 3 to 6."):
        draw("ddpm, learned", levels)


@pytest.mark.parametrize("kind", ["scenes_unet", "scenes_latent"])
def test_inversion_over_one_level_is_refused(execute, models, kind):
    model, vae = models[kind]
    image = (scene().movedim(1, -1) + 1) / 2
    with pytest.raises(ValueError, match="one noise level alone makes no step.*input 'respacing'"):
        execute("Guidance_DDIMInversion", model=model, image=image, respacing="1", vae=vae)


@pytest.mark.parametrize("kind", ["scenes_unet", "scenes_flow"])
def test_guides_do_nothing_in_ddim_inversion_and_the_report_says_so(execute, models, encoder, kind):
    import json

    model, vae = models[kind]
    image = (scene().movedim(1, -1) + 1) / 2
    steered = applied(execute, model, text_guide(execute, encoder, weight=5.0), vae)
    codes = [execute("Guidance_DDIMInversion", model=m, image=image, steps=4, vae=vae)[0].x_T for m in (model, steered)]
    assert torch.equal(*codes)
    _, text = execute("Guidance_GuideReport", model=steered, samples={"samples": torch.zeros(1)})
    assert "from a picture to its noise" in json.loads(text)["note"]


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_guides_do_nothing_over_flipped_sigmas_of_the_hosts_samplers(execute, models, encoder, sampler):
    model, _ = models["scenes_unet"]
    rising = flipped(torch.tensor([12.0, 5.0, 1.0, 0.0]))
    steered = applied(execute, model, text_guide(execute, encoder, weight=5.0))
    options = {"sigmas": rising, "latent": scene(), "noise": torch.zeros(2, 3, 32, 32), "sampler": sampler}
    assert torch.equal(sample(execute, steered, **options), sample(execute, model, **options))
    falling = rising.flip(0)
    assert not torch.equal(sample(execute, steered, sigmas=falling), sample(execute, model, sigmas=falling))


@pytest.mark.parametrize("steps, denoise, most", [(600, 0.5, 500), (1000, 0.3, 300), (11, 0.01, 10)])
def test_more_steps_than_denoise_leaves_are_refused_in_terms_of_both(execute, models, steps, denoise, most):
    model = models["scenes_unet"][0]
    (classifier,) = execute("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")
    (latent,) = execute("Guidance_EmptyPixelLatent", width=32, height=32)
    with pytest.raises(ValueError, match=f"{steps} steps are the last part .* use at most {most},.*input 'steps'"):
        execute(
            "Guidance_ClassifierGuidedSampler",
            model=model,
            classifier=classifier,
            latent_image=latent,
            steps=steps,
            denoise=denoise,
        )


@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache"])
@pytest.mark.parametrize("guides_first", [True, False], ids=["guides first", "cache first"])
def test_step_caches_and_guides_work_together(execute, models, encoder, cache, guides_first):
    import comfy_extras.nodes_easycache as nodes

    def cached(model):
        return getattr(nodes, f"{cache}Node").execute(model, 0.9, 0.1, 0.95, False).args[0]

    def steered(model):
        return applied(execute, model, text_guide(execute, encoder, weight=2.0))

    model = models["scenes_unet"][0]
    both = cached(steered(model)) if guides_first else steered(cached(model))
    found, alone = sample(execute, both, steps=8), sample(execute, cached(model), steps=8)
    assert torch.isfinite(found).all() and not torch.equal(found, alone)
