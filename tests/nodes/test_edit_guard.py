"""Edit Guard in runs of the host: what is held comes out as the source, and nothing else changes."""

import pytest
import torch
from edit_models import MODELS, cfg_guider, told
from guided_sampling import KINDS, applied, sample, text_guide
from host_unets import random

pytestmark = pytest.mark.host


def half(batch=1):
    """White: the left half is free."""
    mask = torch.zeros(batch, 32, 32)
    mask[..., :16] = 1
    return mask


@pytest.fixture
def source(models):
    """LATENT of a drawn picture, by model."""
    picture = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(3))

    def of(kind, batch=1):
        with torch.inference_mode():
            return {"samples": models[kind][1].encode(picture.expand(batch, -1, -1, -1))}

    return of


@pytest.fixture
def guard(execute):
    def put(model, source, mask=None, **options):
        return execute("Guidance_EditGuard", model=model, source=source, mask=mask, **options)[0]

    return put


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral"])
def test_what_is_held_comes_out_as_the_source(execute, models, source, guard, kind, sampler):
    """On pixels, latents and flows."""
    model = models[kind][0]
    given = source(kind)
    drawn = sample(execute, guard(model, given, half()), sampler=sampler, batch=2)
    right = drawn.shape[-1] // 2
    expected = given["samples"][..., right:].expand(2, -1, -1, -1)
    torch.testing.assert_close(drawn[..., right:], expected, atol=2e-5, rtol=0)
    plain = sample(execute, model, sampler=sampler, batch=2)
    assert not torch.allclose(plain[..., right:], expected, atol=0.1)


@pytest.mark.parametrize("hold", ["all", "colours"])
@pytest.mark.parametrize("neutral", [{"strength": 0.0}, {"end_percent": 0.0}, {"mask": torch.ones(1, 32, 32)}])
def test_neutral_settings_change_no_bit(execute, models, source, guard, neutral, hold):
    model = models["scenes_unet"][0]
    assert torch.equal(
        sample(execute, guard(model, source("scenes_unet"), hold=hold, **neutral)), sample(execute, model)
    )


def test_each_picture_of_a_batch_has_its_own_source_and_mask(execute, models, guard, source):
    model = models["scenes_unet"][0]
    given = {"samples": torch.cat([source("scenes_unet")["samples"], -source("scenes_unet")["samples"]])}
    masks = torch.cat([half(), 1 - half()])
    noise = random(2, 3, 32, 32, seed=1)
    both = sample(execute, guard(model, given, masks), noise=noise)
    alone = [
        sample(
            execute,
            guard(model, {"samples": given["samples"][k : k + 1]}, masks[k : k + 1]),
            batch=1,
            noise=noise[k : k + 1],
        )
        for k in range(2)
    ]
    torch.testing.assert_close(both, torch.cat(alone), atol=2e-4, rtol=0)


def test_a_found_mask_is_each_pictures_own(execute, models, guard, source):
    model, given = models["scenes_unet"][0], source("scenes_unet", 2)
    noise = random(2, 3, 32, 32, seed=1)
    both = sample(execute, guard(model, given), noise=noise)
    alone = [sample(execute, guard(model, source("scenes_unet")), batch=1, noise=noise[k : k + 1]) for k in range(2)]
    torch.testing.assert_close(both, torch.cat(alone), atol=2e-4, rtol=0)


def test_what_guides_add_is_held_too_in_any_order(execute, models, encoder, guard, source):
    model, given, guides = models["scenes_unet"][0], source("scenes_unet"), text_guide(execute, encoder)
    before = guard(applied(execute, model, guides), given, half())
    after = applied(execute, guard(model, given, half()), guides)
    drawn = sample(execute, before)
    assert torch.equal(drawn, sample(execute, after))
    torch.testing.assert_close(drawn[..., 16:], given["samples"][..., 16:].expand(2, -1, -1, -1), atol=2e-5, rtol=0)


def test_two_guards_hold_two_sources(execute, models, guard, source):
    model, given = models["scenes_unet"][0], source("scenes_unet")
    other = {"samples": -given["samples"]}
    drawn = sample(execute, guard(guard(model, given, half()), other, 1 - half()), batch=1)
    expected = torch.cat([other["samples"][..., :16], given["samples"][..., 16:]], -1)
    torch.testing.assert_close(drawn, expected, atol=2e-5, rtol=0)


def test_a_window_that_ends_early_lets_the_rest_go(execute, models, guard, source):
    model, given = models["scenes_unet"][0], source("scenes_unet")
    drawn = sample(execute, guard(model, given, half(), end_percent=0.5))
    assert not torch.allclose(drawn[..., 16:], given["samples"][..., 16:].expand(2, -1, -1, -1), atol=1e-2)


@pytest.mark.parametrize("name", ["kontext", "qwen"])
def test_it_works_on_an_edit_model_with_cfg(guard, comfy, name):
    """A flow on latents of 16 channels, beside its reference; Qwen's have an axis of time that a picture's lack."""
    import comfy.samplers

    build, shape = MODELS[name]
    given = {"samples": random(1, 16, 8, 8, seed=9)}
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    guider = cfg_guider(guard(build(), given, mask), told(name, 3), told(name, 4), 3.0)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    levels = comfy.samplers.calculate_sigmas(sampling, "simple", 3)
    noise = random(1, *shape, seed=1)
    with torch.inference_mode():
        euler = comfy.samplers.sampler_object("euler")
        drawn = guider.sample(noise, torch.zeros_like(noise), euler, levels, disable_pbar=True, seed=1)
    torch.testing.assert_close(drawn[..., 4:].reshape(1, 16, 8, 4), given["samples"][..., 4:], atol=2e-5, rtol=0)


def test_a_run_up_to_noise_is_left_alone(execute, models, guard, source):
    model = models["scenes_unet"][0]
    picture = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(5))
    inverted = [
        execute("Guidance_DDIMInversion", model=one, image=picture, steps=3)[1]["samples"]
        for one in (model, guard(model, source("scenes_unet")))
    ]
    assert torch.equal(*inverted)


def test_a_source_of_another_size_is_refused(execute, models, guard):
    model = guard(models["scenes_unet"][0], {"samples": torch.zeros(1, 3, 40, 32)}, half())
    with pytest.raises(ValueError, match=r"source is a LATENT of shape \[1, 3, 40, 32\].*\[2, 3, 32, 32\]"):
        sample(execute, model)


def test_too_many_sources_or_masks_are_refused(execute, models, guard, source):
    model = models["scenes_unet"][0]
    with pytest.raises(ValueError, match="one source or one for each picture"):
        sample(execute, guard(model, source("scenes_unet", 3), half()))
    with pytest.raises(ValueError, match="Edit Guard: 3 masks came for a batch of 2"):
        sample(execute, guard(model, source("scenes_unet"), half(3)))


def test_a_latent_of_another_model_is_refused_before_the_run(models, guard):
    with pytest.raises(ValueError, match="this LATENT has 4 channels.*input 'source'"):
        guard(models["scenes_unet"][0], {"samples": torch.zeros(1, 4, 32, 32)})
