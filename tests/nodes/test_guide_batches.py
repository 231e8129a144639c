"""Guides under batches: each image of a batch is the one that its own seed gives alone, whatever stands beside it.

Networks see one image at a time where bits are compared: the rounding of a batch is theirs.
"""

import pytest
import torch
from guided_sampling import applied, guide_of, picture, sample, text_guide

pytestmark = pytest.mark.host


def noise(count=3, shape=(3, 32, 32)):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def batch_and_alone(execute, model, kind="scenes_unet", seed=5, **options):
    """(image i of a batch of three, the same sampled alone with seed + i) for each i."""
    shape = (12, 16, 16) if kind == "scenes_latent" else (3, 32, 32)
    start = noise(shape=shape)
    whole = sample(execute, model, latent=torch.zeros_like(start), noise=start, seed=seed, **options)
    for k in range(3):
        one = start[k : k + 1]
        yield (
            whole[k : k + 1],
            sample(execute, model, latent=torch.zeros_like(one), noise=one, seed=(seed + k) % 2**64, **options),
        )


def references(execute, encoder, guide, count=1, **options):
    image = torch.cat([picture(seed=k) for k in range(count)])
    return execute(f"Guidance_{guide}Guide", encoder=encoder, image=image, start_percent=0.0, **options)[0]


@pytest.mark.parametrize("guide, count", [("Content", 1), ("Content", 2), ("Structure", 1), ("Style", 3)])
def test_references_have_noise_of_each_pictures_own_seed(execute, encoder, models, one_by_one, guide, count):
    steered = applied(execute, models["scenes_unet"][0], references(execute, encoder, guide, count))
    for found, alone in batch_and_alone(execute, one_by_one(steered), steps=4):
        assert torch.equal(found, alone)


@pytest.mark.parametrize("kind", ["scenes_unet", "scenes_latent", "scenes_flow"])
def test_recurrence_has_noise_of_each_pictures_own_seed(execute, encoder, models, one_by_one, kind):
    model, vae = models[kind]
    steered = applied(execute, model, text_guide(execute, encoder), vae, recurrence=2, unit="lambda")
    for found, alone in batch_and_alone(execute, one_by_one(steered), kind, steps=3):
        assert torch.equal(found, alone)


def test_two_images_of_one_start_differ_by_their_references_noise_alone(execute, encoder, models):
    start = noise(1).repeat(2, 1, 1, 1)
    options = {"latent": torch.zeros_like(start), "noise": start, "steps": 2}
    for how, same in (("fresh", False), ("fixed", False)):
        guides = references(execute, encoder, "Content", reference_noise=how)
        first, second = sample(execute, applied(execute, models["scenes_unet"][0], guides), **options)
        assert torch.equal(first, second) == same
    first, second = sample(execute, models["scenes_unet"][0], **options)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 2**63 - 1, 2**64 - 1])
def test_any_seed_of_the_host_serves_a_batch(execute, encoder, models, one_by_one, seed):
    """The seed after the last one is 0."""
    steered = applied(execute, models["scenes_unet"][0], references(execute, encoder, "Content"), recurrence=2)
    for found, alone in batch_and_alone(execute, one_by_one(steered), seed=seed, steps=2):
        assert torch.equal(found, alone)


@pytest.mark.parametrize("algorithm", ["ddim", "ddpm"])
def test_an_image_taken_out_of_a_batch_by_its_number_keeps_its_noise_and_its_references(
    execute, encoder, models, algorithm
):
    """Latent From Batch writes batch_index, which Classifier-Guided Sampler reads."""
    from nodes import LatentFromBatch

    model = applied(execute, models["scenes_unet"][0], references(execute, encoder, "Content"))
    (classifier,) = execute("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")
    (latent,) = execute("Guidance_EmptyPixelLatent", width=32, height=32, batch_size=3)
    (one,) = LatentFromBatch().frombatch(latent, 2, 1)
    assert one["batch_index"] == [2]

    def run(latent, seed):
        options = {"model": model, "classifier": classifier, "class_label": "star", "algorithm": algorithm, "eta": 1.0}
        (found,) = execute("Guidance_ClassifierGuidedSampler", latent_image=latent, seed=seed, steps=3, **options)
        return found["samples"]

    whole = run(latent, 7)
    torch.testing.assert_close(run(one, 7), whole[2:], rtol=0, atol=1e-4)
    torch.testing.assert_close(run({"samples": latent["samples"][:1]}, 9), whole[2:], rtol=0, atol=1e-4)


def test_each_image_of_a_batch_sees_all_references(execute, encoder, models):
    """The order in which they come means nothing."""
    model = models["scenes_unet"][0]
    image = torch.cat([picture(seed=1), picture(seed=2)])
    found = []
    for pictures in (image, image.flip(0)):
        (guides,) = execute("Guidance_StyleGuide", encoder=encoder, image=pictures)
        found.append(sample(execute, applied(execute, model, guides, gradient="at denoised"), steps=2))
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


@pytest.mark.parametrize("guide", ["text", "style", "palette"])
def test_a_mask_for_each_picture(execute, encoder, models, guide):
    """A black one is no guide at all."""
    model = models["scenes_unet"][0]
    mask = torch.stack([torch.zeros(32, 32), torch.ones(32, 32), torch.ones(32, 32)])
    (guides,) = [guide_of(execute, encoder, guide)]
    for one in guides:
        object.__setattr__(one, "mask", mask)
    options = {"latent": torch.zeros(3, 3, 32, 32), "noise": noise(), "steps": 2}
    plain, masked = sample(execute, model, **options), sample(execute, applied(execute, model, guides), **options)
    assert torch.equal(masked[0], plain[0])
    assert all(not torch.equal(masked[k], plain[k]) for k in (1, 2))


@pytest.mark.parametrize("gradient", ["at denoised", "auto", "through denoiser"])
def test_guides_see_the_whole_sample_whatever_windows_the_model_sees_it_through(execute, encoder, models, gradient):
    """Context windows lie inside the model's prediction: with windows that agree the guide does the same."""
    import comfy.context_windows as windows

    model = applied(execute, models["scenes_unet"][0], text_guide(execute, encoder), gradient=gradient)
    seen = model.clone()
    windows.create_prepare_sampling_wrapper(seen)
    seen.model_options["context_handler"] = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
        fuse_method=windows.get_matching_fuse_method(windows.ContextFuseMethods.FLAT),
        context_length=32,
        context_overlap=0,
        context_stride=1,
        closed_loop=False,
        dim=3,
    )
    torch.testing.assert_close(sample(execute, seen, steps=2), sample(execute, model, steps=2), rtol=0, atol=1e-4)
