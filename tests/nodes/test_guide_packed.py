"""Guides on models that sample video and sound as one: they see and move the video alone."""

import pytest
import torch
from families.build import built
from hosts import version
from networks import pictures, seeded

pytestmark = pytest.mark.host
SIGMAS = torch.tensor([0.9, 0.0])


@pytest.fixture(scope="module")
def ltx(comfy):
    """LTX-2 at tiny width, whose colours the guides of this file need."""
    found = built("LTXAV")
    if found.model.model.latent_format.latent_rgb_factors is None:
        pytest.skip(f"ComfyUI {version()} knows no colours of LTX-2's latents")
    return found


def nested(parts):
    from comfy.nested_tensor import NestedTensor

    return NestedTensor(parts)


def sample(ltx, model=None, latent=None, mask=None):
    """(video, sound) after one step."""
    import comfy.sample

    noise = nested([seeded(*shape, seed=n) for n, shape in enumerate(ltx.shape)])
    latent = noise * 0.0 if latent is None else latent
    with torch.inference_mode():
        drawn = comfy.sample.sample(
            model or ltx.model, noise, 1, 3.0, "euler", "simple", *ltx.conds[:2], latent, sigmas=SIGMAS, seed=1,
            noise_mask=mask, disable_pbar=True,
        )  # fmt: skip
    return drawn.unbind()


def steered(execute, ltx, **options):
    guides = execute("Guidance_PaletteGuide", image=pictures(), start_percent=0.0, end_percent=1.0)[0]
    return execute("Guidance_ApplyGuides", model=ltx.model, guides=guides, **options)[0]


@pytest.mark.parametrize("gradient", ["at denoised", "through denoiser"])
def test_the_video_moves_and_the_sound_stays(execute, ltx, gradient):
    """To the bit, but for the rounding of kernels that can be differentiated."""
    video, sound = sample(ltx)
    moved, kept = sample(ltx, steered(execute, ltx, gradient=gradient))
    assert not torch.equal(moved, video) and torch.isfinite(moved).all()
    torch.testing.assert_close(kept, sound, rtol=0, atol=0 if gradient == "at denoised" else 1e-4)


def test_a_guide_of_strength_0_keeps_every_bit(execute, ltx):
    for plain, found in zip(sample(ltx), sample(ltx, steered(execute, ltx, strength=0.0)), strict=True):
        assert torch.equal(plain, found)


def test_the_part_of_the_video_that_inpainting_holds_is_not_moved(execute, ltx):
    latent = nested([seeded(*shape, seed=5 + n) for n, shape in enumerate(ltx.shape)])
    free = torch.zeros(1, 1, *ltx.shape[0][2:])
    free[..., 2:] = 1
    mask = nested([free, torch.ones(1, 1, *ltx.shape[1][2:])])
    video, _ = sample(ltx, latent=latent, mask=mask)
    moved, _ = sample(ltx, steered(execute, ltx), latent=latent, mask=mask)
    assert torch.equal(moved[..., :2], video[..., :2])
    assert not torch.equal(moved[..., 2:], video[..., 2:])
