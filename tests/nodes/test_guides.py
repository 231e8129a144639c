"""Guides in the host, in process: exactly off when off, image by image, and on every kind of model."""

import json

import pytest
import torch
from guided_sampling import KINDS, applied, guide_of, picture, sample, text_guide
from hosts import clip_vision_model

pytestmark = pytest.mark.host
ESTIMATORS = ["at denoised", "at denoised optimised", "through denoiser"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "guide, options",
    [
        ({"weight": 0.0}, {}),
        ({}, {"strength": 0.0}),
        ({"start_percent": 0.4, "end_percent": 0.4}, {}),
        ({"start_percent": 0.45, "end_percent": 0.5}, {}),
        ({"curve": "linear", "start_percent": 0.0, "weight": 0.0}, {"gradient": "through denoiser"}),
    ],
    ids=["weight 0", "strength 0", "empty window", "window between steps", "all of it"],
)
def test_what_is_off_changes_no_bit(execute, encoder, models, kind, guide, options):
    model, vae = models[kind]
    steered = applied(execute, model, text_guide(execute, encoder, **guide), vae, **options)
    assert torch.equal(sample(execute, steered), sample(execute, model))


ENCODER_GUIDES = ["text", "content", "structure difference", "structure self-similarity", "style"]
GUIDES = [*ENCODER_GUIDES, "palette", "classifier", "match", "score"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guide", GUIDES)
def test_every_guide_lowers_its_loss_on_every_kind_of_model(execute, encoder, models, kind, guide):
    model, vae = models[kind]
    strength = 0.02 if guide == "structure difference" else 1.0
    guides = guide_of(execute, encoder, guide)
    last = {}
    for name, scale in (("with", 1.0), ("without", 1e-9)):
        steered = applied(execute, model, guides, vae, strength=scale * strength, gradient="at denoised", unit="lambda")
        samples = sample(execute, steered, steps=8, batch=2)
        _, text = execute("Guidance_GuideReport", model=steered, samples={"samples": samples})
        (rows,) = json.loads(text)["guides"].values()
        last[name] = rows[-1]["loss"]
    assert last["with"] < last["without"]


def compare_batch_with_alone(execute, model, tolerance, **options):
    for k, error in errors_of_a_batch(execute, model, **options).items():
        assert error < tolerance, (k, error)


def errors_of_a_batch(execute, model, size=8, **options):
    """Largest differences of some images of a batch from themselves sampled alone, with their own seeds."""
    shape = sample(execute, model, steps=1, batch=1).shape
    noise = torch.randn(size, *shape[1:], generator=torch.Generator().manual_seed(1))
    empty = torch.zeros(size, *shape[1:])
    whole = sample(execute, model, latent=empty, noise=noise, seed=5, **options)
    found = {}
    for k in (0, size // 2 - 1, size - 1):
        alone = sample(execute, model, latent=empty[:1], noise=noise[k : k + 1], seed=5 + k, **options)
        found[k] = float((whole[k : k + 1] - alone).abs().max() / whole.abs().max())
    return found


def one_step_from(kind, sigma):
    """The same noise level for a flow model."""
    return {"sigmas": torch.tensor([sigma / (1 + sigma) if kind == "scenes_flow" else sigma, 0.0])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guide", [*ENCODER_GUIDES, "match", "score"])
def test_each_guide_as_it_comes_leaves_images_alone_after_one_step(execute, encoder, models, kind, guide):
    """Default unit and estimator. The encoder's activation has no corner, at which rounding would tip its gradient."""
    model, vae = models[kind]
    steered = applied(execute, model, guide_of(execute, encoder, guide), vae)
    for sigma in (0.5, 2.0):
        compare_batch_with_alone(execute, steered, tolerance=1e-5, **one_step_from(kind, sigma))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guide", ENCODER_GUIDES)
def test_to_the_bit_in_one_step_if_networks_see_one_image_at_a_time(execute, encoder, models, one_by_one, kind, guide):
    """The rounding of networks is all that tells a batch from a single image; nothing of ours mixes images."""
    model, vae = models[kind]
    steered = one_by_one(applied(execute, model, guide_of(execute, encoder, guide), vae))
    assert set(errors_of_a_batch(execute, steered, **one_step_from(kind, 1.0)).values()) == {0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", ["auto", *ESTIMATORS])
def test_to_the_bit_with_every_estimator(execute, encoder, models, one_by_one, kind, gradient):
    model, vae = models[kind]
    guides = text_guide(execute, encoder) + guide_of(execute, encoder, "style")
    steered = one_by_one(applied(execute, model, guides, vae, gradient=gradient, unit="lambda"))
    assert set(errors_of_a_batch(execute, steered, **one_step_from(kind, 0.5)).values()) == {0}


@pytest.mark.parametrize("kind", KINDS)
def test_to_the_bit_in_twenty_steps_if_networks_see_one_image_at_a_time(execute, encoder, models, one_by_one, kind):
    """With the networks' own rounding the difference after 20 steps is chaos: up to 1.5e-3, another on every CPU."""
    model, vae = models[kind]
    guides = text_guide(execute, encoder) + guide_of(execute, encoder, "content")
    steered = one_by_one(applied(execute, model, guides, vae))
    assert set(errors_of_a_batch(execute, steered, size=4, steps=20).values()) == {0}


def test_the_flow_view_predicts_what_the_eps_model_predicts(models):
    """D_flow(x, s) = D(x / (1 - s), s / (1 - s)), at every level of both."""
    import comfy.samplers

    predictions = {}
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(1, 3, 32, 32, generator=generator) for _ in range(2))
    for s in (0.05, 0.3, 0.7, 0.95, 0.99):
        for kind in ("scenes_unet", "scenes_flow"):
            inner = models[kind][0].model
            models[kind][0].pre_run()
            x = (1 - s) * x0 + s * noise
            sigma, x = (s / (1 - s), x / (1 - s)) if kind == "scenes_unet" else (s, x)
            with torch.inference_mode():
                cond = [{"model_conds": inner.extra_conds(device="cpu", noise=x), "uuid": 0}]
                options = {"transformer_options": {}}
                out = comfy.samplers.calc_cond_batch(inner, [cond], x, torch.tensor([sigma]), options)
            predictions[kind] = out[0]
        error = (predictions["scenes_unet"] - predictions["scenes_flow"]).abs().max()
        assert error / predictions["scenes_unet"].abs().max() < 1e-4, s


def test_the_latent_model_samples_the_transform_of_what_the_pixel_model_samples(execute, models):
    from pack.models import haar

    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    pixels = sample(execute, models["scenes_unet"][0], latent=torch.zeros(2, 3, 32, 32), noise=noise)
    model, vae = models["scenes_latent"]
    latents = sample(execute, model, latent=torch.zeros(2, 12, 16, 16), noise=haar.analyse(noise))
    torch.testing.assert_close(haar.synthesise(latents), pixels, rtol=0, atol=2e-4)
    with torch.inference_mode():
        image = vae.decode(latents)
        torch.testing.assert_close(vae.encode(image), haar.analyse(image.movedim(-1, 1) * 2 - 1), rtol=0, atol=1e-5)


def test_wavelets_are_orthonormal():
    from pack.models import haar

    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(haar.synthesise(haar.analyse(x)), x)
    torch.testing.assert_close(haar.analyse(x).norm(), x.norm())
    assert torch.allclose(haar.analyse(torch.ones(1, 3, 4, 4))[:, :3], torch.tensor(2.0))


def test_guides_in_our_ddim_and_ddpm_samplers_enter_as_the_classifier_guided_sampler_has_them(execute, models):
    """The published rules: through the score in DDIM, by moving the mean in DDPM, learned variance included.

    Four steps: longer runs multiply the rounding (by 70 in six), which says nothing about the rules.
    """
    import comfy.samplers

    model, _ = models["scenes_unet"]
    (classifier,) = execute("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")
    guides = execute("Guidance_ClassifierGuide", classifier=classifier, class_label="star", weight=8.0)[0]
    (latent,) = execute("Guidance_EmptyPixelLatent", width=32, height=32, batch_size=2)
    (cond,) = execute("Guidance_ClassConditioning", model=model, class_label="")
    (sigmas,) = execute("Guidance_RespacedSigmas", model=model, respacing="4")
    from pack.guidance.noise import initial_noise

    for algorithm, node, options in (
        ("ddim", "Guidance_DDIMSampler", {"eta": 0.5}),
        ("ddpm", "Guidance_DDPMSampler", {"variance": "auto"}),
    ):
        (expected,) = execute(
            "Guidance_ClassifierGuidedSampler",
            model=model,
            classifier=classifier,
            class_label="star",
            latent_image=latent,
            seed=3,
            steps=4,
            algorithm=algorithm,
            guidance_scale=8.0,
            eta=0.5,
        )
        (sampler,) = execute(node, **options, clip_denoised=False)
        guider = comfy.samplers.CFGGuider(applied(execute, model, guides))
        guider.inner_set_conds({"positive": cond})
        with torch.inference_mode():
            found = guider.sample(
                initial_noise((2, 3, 32, 32), 3, range(2)), latent["samples"], sampler, sigmas, seed=3
            )
        torch.testing.assert_close(found, expected["samples"], rtol=0, atol=3e-5)


def test_a_clone_without_guides_is_not_touched_and_branches_do_not_mix(execute, encoder, models):
    model, vae = models["scenes_unet"]
    plain = sample(execute, model)
    red = applied(execute, model, text_guide(execute, encoder, "a red shape"))
    both = applied(execute, red, text_guide(execute, encoder, "blue background"))
    one = sample(execute, red)
    two = sample(execute, both)
    assert torch.equal(sample(execute, red), one) and not torch.equal(one, two)
    assert torch.equal(sample(execute, model), plain)


def test_two_applications_in_a_chain_are_one_of_both(execute, encoder, models):
    model, _ = models["scenes_unet"]
    first, second = text_guide(execute, encoder, "a red shape"), text_guide(execute, encoder, "a star")
    chained = applied(execute, applied(execute, model, first), second)
    combined = applied(execute, model, first + second)
    torch.testing.assert_close(sample(execute, chained), sample(execute, combined), rtol=1e-4, atol=1e-4)


def test_inpainting_steers_the_free_part_and_keeps_the_rest(execute, encoder, models):
    for kind in KINDS:
        model, vae = models[kind]
        with torch.inference_mode():
            latent = vae.encode(torch.full((1, 32, 32, 3), 0.8))
        mask = torch.zeros(1, 32, 32)
        mask[:, :, 16:] = 1
        plain = sample(execute, model, latent=latent, mask=mask, steps=6)
        steered = applied(execute, model, text_guide(execute, encoder, weight=3.0), vae)
        guided = sample(execute, steered, latent=latent, mask=mask, steps=6)
        half = latent.shape[-1] // 2
        torch.testing.assert_close(guided[..., :half], latent[..., :half], rtol=0, atol=1e-4)
        assert not torch.allclose(guided[..., half:], plain[..., half:], atol=1e-3)


def test_a_guides_mask_keeps_the_first_step_outside_it(execute, encoder, models):
    model, _ = models["scenes_unet"]
    mask = torch.zeros(1, 16, 16)
    mask[:, :8] = 1
    steered = applied(execute, model, text_guide(execute, encoder, weight=3.0, mask=mask))
    plain, guided = sample(execute, model, steps=1), sample(execute, steered, steps=1)
    assert torch.equal(plain[:, :, 17:], guided[:, :, 17:])
    assert not torch.equal(plain[:, :, :16], guided[:, :, :16])


def test_video_latents_are_steered_by_their_colours(comfy):
    """[B C T H W] through the linear map, frame by frame."""
    from types import SimpleNamespace

    import comfy.latent_formats

    from pack.nodes.host.pictures import Decoder

    model = SimpleNamespace(model=SimpleNamespace(latent_format=comfy.latent_formats.Wan21()))
    z = torch.randn(2, 16, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    colours = Decoder(model, None).colours(z)
    assert colours.shape == (2, 3, 3 * 4 * 5)


@pytest.fixture(scope="module")
def clip_vision(comfy):
    """A small random CLIP_VISION of the host, made in a node as its loader makes it."""
    config = {"hidden_act": "gelu", "hidden_size": 32, "image_size": 32, "intermediate_size": 64, "num_channels": 3}
    config |= {"model_type": "clip_vision_model", "num_attention_heads": 2, "num_hidden_layers": 3, "patch_size": 8}
    with torch.inference_mode():
        vision = clip_vision_model({**config, "projection_dim": 16})
        for parameter in vision.model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    return vision


@pytest.mark.parametrize("kind", KINDS)
def test_the_hosts_clip_vision_guides_and_keeps_its_own_weights(execute, models, clip_vision, kind):
    before = [parameter.data_ptr() for parameter in clip_vision.model.parameters()]
    (encoder,) = execute("Guidance_EncoderFromClipVision", clip_vision=clip_vision)
    model, vae = models[kind]
    image = {"encoder": encoder, "image": picture(), "start_percent": 0.0, "end_percent": 1.0}
    for node in ("Guidance_ContentGuide", "Guidance_StyleGuide", "Guidance_StructureGuide"):
        guides = execute(node, **image)[0]
        assert not torch.equal(sample(execute, applied(execute, model, guides, vae)), sample(execute, model))
    with pytest.raises(ValueError, match="this encoder has no text tower; connect clip"):
        execute("Guidance_TextGuide", encoder=encoder, text="a cat")
    linear = [module for module in clip_vision.model.modules() if isinstance(module, torch.nn.Linear)]
    kept = {parameter.data_ptr() for parameter in clip_vision.model.parameters()} & set(before)
    assert all(module.weight.data_ptr() in kept for module in linear)


def test_the_layers_of_clip_vision_are_its_blocks(clip_vision):
    from pack.nodes.host.guides.clip_vision import VisionNetwork

    network = VisionNetwork(clip_vision)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        first, second = network.maps(x, torch.zeros(2), ["block 3", "block 1"])
        expected = clip_vision.model(pixel_values=((x + 1) / 2 - network.mean) / network.std, intermediate_output=0)
    torch.testing.assert_close(second.flatten(2).transpose(1, 2), expected[1][:, 1:])
    torch.testing.assert_close(first.flatten(2).transpose(1, 2), expected[0][:, 1:])
    with pytest.raises(ValueError, match="no layer 'block 4' in this encoder; there are: block 1, block 2, block 3"):
        from pack.models.encoder import STYLE, chosen_layers

        chosen_layers("block 4", network, STYLE)
