"""Pictures, areas, latents and VAEs that don't fit a MODEL are refused early, naming the input and both sizes."""

from functools import partial

import comfy_conditions
import pytest
import torch
from guided_sampling import applied, guide_of, picture, sample, text_guide

pytestmark = pytest.mark.host


# --- size


@pytest.mark.parametrize(
    "kind, width, height", [("scenes_unet", 512, 512), ("scenes_latent", 512, 512), ("scenes_unet", 2048, 32)]
)
def test_a_latent_far_beyond_a_pixel_models_size_is_refused_at_once(execute, models, kind, width, height):
    model = models[kind][0]
    ratio = model.model.latent_format.spacial_downscale_ratio
    latent = torch.zeros(1, model.model.latent_format.latent_channels, height // ratio, width // ratio)
    words = rf"trained on pictures of 32 x 32, and this one is {width} x {height}; use Empty Pixel Latent at 32 x 32"
    with pytest.raises(ValueError, match=words):
        sample(execute, model, latent=latent, steps=1)


def test_four_times_the_side_is_the_limit_by_area(models):
    from pack.nodes.host.model import check_pictures

    check = partial(check_pictures, models["scenes_unet"][0].model.diffusion_model)
    for width, height in ((32, 32), (128, 128), (512, 32), (64, 256)):
        check([1, 3, height, width])
    for width, height in ((136, 128), (520, 32), (256, 128)):
        with pytest.raises(ValueError, match="Empty Pixel Latent"):
            check([1, 3, height, width])


def test_a_size_that_was_assumed_is_said_to_be(models):
    from types import SimpleNamespace

    from pack.nodes.host.model import check_pictures

    known = models["scenes_unet"][0].model.diffusion_model
    guessed = SimpleNamespace(
        name="own.pt", facts=known.facts, in_channels=3, downscale=known.downscale, guessed_size=True
    )
    with pytest.raises(ValueError, match="as was assumed .image_size of its loader says otherwise"):
        check_pictures(guessed, [1, 3, 512, 512])


@pytest.mark.parametrize("size", [(512, 512), (36, 32), (32, 44)])
def test_a_picture_that_the_model_can_not_draw_is_named_before_the_run(execute, models, encoder, size):
    model = models["scenes_unet"][0]
    given = {"model": model, "image": picture(size=size)}
    for node in ("DDIMInversion", "HSpaceInject", "AsyrpTiming"):
        with pytest.raises(ValueError, match="the pixel model scenes_unet.safetensors.*input 'image'"):
            execute(f"Guidance_{node}", **given)
    training = {
        "model": model,
        "encoder": encoder,
        "source_text": "a shape",
        "target_text": "a star",
        "form": "one direction",
    }
    with pytest.raises(ValueError, match="the pixel model.*input 'images'"):
        execute("Guidance_TrainHSpaceDirection", **training, images=picture(size=size))
    (cond,) = execute("Guidance_ClassConditioning", model=model, class_label="star")
    pair = {"positive_images": picture(size=size), "negative_images": picture(size=size)}
    with pytest.raises(ValueError, match="the pixel model.*input 'positive_images'"):
        execute("Guidance_DiscoverHSpace", model=model, method="contrast", positive=cond, **pair)


# --- areas

AREAS = {
    "96 pixels": ("scenes_unet", lambda cond: comfy_conditions.set_area(cond, 96, 96), "12 x 12 pixels.*8 times"),
    "one side": ("scenes_unet", lambda cond: comfy_conditions.set_area(cond, 128, 64), None),
    "another": ("scenes_unet", lambda cond: comfy_conditions.set_area(cond, 64, 160), "8 x 20 pixels.*8 times"),
    "percent": ("scenes_unet", lambda cond: comfy_conditions.set_percentage(cond, 0.4), "13 x 13 pixels"),
    "a mask's bounds": ("scenes_unet", lambda cond: comfy_conditions.set_mask(cond, 13), "13 x 13 pixels.*default"),
    "latents": ("scenes_latent", lambda cond: comfy_conditions.set_area(cond, 48, 48), "12 x 12 pixels.*4 times"),
}


@pytest.mark.parametrize("case", AREAS)
def test_a_conditioning_area_of_an_impossible_size_is_named_with_its_units(execute, models, case):
    import comfy.sample

    kind, change, words = AREAS[case]
    model = models[kind][0]
    (cond,) = execute("Guidance_ClassConditioning", model=model, class_label="star")
    latent_format = model.model.latent_format
    side = 32 // latent_format.spacial_downscale_ratio
    x = torch.zeros(1, latent_format.latent_channels, side, side)

    def run():
        with torch.inference_mode():
            both = [*cond, *change(cond)]
            return comfy.sample.sample(
                model, torch.randn_like(x), 1, 1.0, "euler", "normal", both, cond, x, disable_pbar=True, seed=1
            )

    if words is None:
        assert run().shape == x.shape
        return
    with pytest.raises(ValueError, match=f"a conditioning's area is {words}"):
        run()


# --- VAEs


@pytest.mark.parametrize("wired", ["vae", "tiny_vae"])
@pytest.mark.parametrize("kind", ["text", "style", "content"])
def test_apply_guides_refuses_the_vae_of_another_model(execute, models, encoder, wired, kind):
    model, guides = models["scenes_latent"][0], guide_of(execute, encoder, kind)
    with pytest.raises(ValueError, match=f"this VAE has 3 channels, the model's latents have 12.*input '{wired}'"):
        applied(execute, model, guides, **{wired: models["scenes_unet"][1]})


def test_a_vae_that_no_guide_needs_is_no_fault(execute, models, encoder):
    model = models["scenes_unet"][0]
    guides = text_guide(execute, encoder)
    given = applied(execute, model, guides, vae=models["scenes_latent"][1])
    assert torch.equal(sample(execute, given, steps=2), sample(execute, applied(execute, model, guides), steps=2))


@pytest.mark.parametrize("node", ["DDIMInversion", "HSpaceInject", "AsyrpTiming"])
@pytest.mark.parametrize("kind, other", [("scenes_latent", "scenes_unet"), ("scenes_unet", "scenes_latent")])
def test_a_vae_of_another_model_is_named_before_a_picture_is_inverted(execute, models, node, kind, other):
    given = {"model": models[kind][0], "image": picture(size=(32, 32)), "vae": models[other][1]}
    with pytest.raises(ValueError, match=r"this VAE has \d+ channels, the model's latents have \d+.*input 'vae'"):
        execute(f"Guidance_{node}", **given)


def test_training_and_discovering_refuse_it_too(execute, models, encoder):
    given = {"model": models["scenes_latent"][0], "vae": models["scenes_unet"][1]}
    with pytest.raises(ValueError, match="this VAE has 3 channels.*input 'vae'"):
        execute("Guidance_TrainHSpaceDirection", **given, encoder=encoder, form="one direction")
    (cond,) = execute("Guidance_ClassConditioning", model=given["model"], class_label="star")
    with pytest.raises(ValueError, match="this VAE has 3 channels.*input 'vae'"):
        execute("Guidance_DiscoverHSpace", **given, method="pca", positive=cond)


# --- latents


@pytest.mark.parametrize(
    "kind, shape, words",
    [
        ("scenes_latent", (1, 3, 32, 32), "this LATENT has 3 channels, the model's latents have 12"),
        ("scenes_unet", (1, 4, 8, 8), "this LATENT has 4 channels, the model's latents have 3"),
        ("scenes_unet", (1, 12, 16, 16), "this LATENT has 12 channels, the model's latents have 3"),
        ("scenes_unet", (1, 3, 512, 512), "trained on pictures of 32 x 32, and this one is 512 x 512"),
        ("scenes_latent", (1, 12, 256, 256), "trained on pictures of 32 x 32, and this one is 512 x 512"),
    ],
)
def test_a_latent_of_another_model_is_refused_by_its_input(execute, models, kind, shape, words):
    with pytest.raises(ValueError, match=f"{words}.*input 'latent'"):
        execute("Guidance_HSpaceInject", model=models[kind][0], latent={"samples": torch.ones(shape)})


def test_every_latent_format_of_the_host_says_what_its_vae_has(comfy):
    """HunyuanImage's refiner packs two frames of 32 channels into one of 64; MiniMax H3 has more of sound."""
    from types import SimpleNamespace

    import comfy.latent_formats as formats

    from pack.nodes.host.model import latent_channels

    kinds = [
        kind for kind in vars(formats).values() if isinstance(kind, type) and issubclass(kind, formats.LatentFormat)
    ]
    found = {
        kind.__name__: latent_channels(SimpleNamespace(model=SimpleNamespace(latent_format=kind()))) for kind in kinds
    }
    other = {name for name, channels in found.items() if channels != getattr(formats, name).latent_channels}
    assert (found["SD15"], found["Flux2"], found["Wan21"]) == (4, 128, 16)
    assert other <= {"HunyuanImage21Refiner", "MiniMaxH3AV"} and found.get("HunyuanImage21Refiner", 32) == 32


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 12, 16, 16), (1, 3, 64, 64)])
def test_the_classifier_guided_sampler_names_its_latent(execute, models, shape):
    (classifier,) = execute("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")
    given = {"model": models["scenes_unet"][0], "classifier": classifier, "class_label": "star"}
    with pytest.raises(ValueError, match="the classifier.*input 'latent_image'"):
        execute("Guidance_ClassifierGuidedSampler", **given, latent_image={"samples": torch.ones(shape)})


def test_a_class_label_of_another_model_is_refused(execute, models):
    import comfy.sample

    from pack.nodes.host.conditioning import class_conditioning

    model = models["scenes_unet"][0]
    (cond,) = execute("Guidance_ClassConditioning", model=model, class_label="star")
    x = torch.zeros(1, 3, 32, 32)
    with torch.inference_mode(), pytest.raises(ValueError, match="class 999 came, and this model has"):
        comfy.sample.sample(
            model, x, 1, 1.0, "euler", "normal", class_conditioning([999]), cond, x, disable_pbar=True, seed=1
        )


# --- steps and denoise


@pytest.mark.parametrize("steps, denoise, most", [(600, 0.5, 500), (1000, 0.99, 990), (20, 0.01, 10), (251, 0.25, 250)])
def test_more_steps_than_a_share_of_the_chain_has_are_refused_by_denoise(execute, models, steps, denoise, most):
    (classifier,) = execute("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")
    (latent,) = execute("Guidance_EmptyPixelLatent", width=32, height=32, batch_size=1)
    given = {"model": models["scenes_unet"][0], "classifier": classifier, "latent_image": latent}
    with pytest.raises(ValueError, match=rf"{steps} steps are .* at denoise {denoise}.*at most {most},.*input 'steps'"):
        execute("Guidance_ClassifierGuidedSampler", **given, steps=steps, denoise=denoise)


@pytest.mark.parametrize("denoise", [0.5, 0.99, 0.01, 0.25, 1.0])
def test_the_most_steps_are_the_most(models, denoise):
    from pack.nodes.host.sampling import most_steps, respaced_sigmas

    model = models["scenes_unet"][0]
    most = most_steps(1000, denoise)
    assert len(respaced_sigmas(model, str(most), denoise)) == most + 1
    with pytest.raises(ValueError):
        respaced_sigmas(model, str(most + 1), denoise)
