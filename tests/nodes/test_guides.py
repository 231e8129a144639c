"""Guides in the host, in process: exactly off when off, image by image, run by run, and refused in words."""

import json

import pytest
import torch
from conftest import ROOT

pytestmark = pytest.mark.host
KINDS = ["scenes_unet", "scenes_latent", "scenes_flow"]
ESTIMATORS = ["at denoised", "at denoised optimised", "through denoiser"]
REFERENCE = ROOT / "workflows" / "ksampler_pixels.jpg"


@pytest.fixture(scope="module")
def encoder(pack_nodes):
    return run_node(pack_nodes, "Guidance_LoadEncoder", encoder_name="scenes_clip.safetensors")[0]


def run_node(pack_nodes, node_id, **inputs):
    node = pack_nodes[node_id]
    defaults = {entry.id: getattr(entry, "default", None) for entry in node.GET_SCHEMA().inputs}
    given = {key: value for key, value in {**defaults, **inputs}.items() if value is not None}
    with torch.inference_mode():
        return node.PREPARE_CLASS_CLONE(None).execute(**given).args


@pytest.fixture(scope="module")
def models(pack_nodes):
    """(MODEL, VAE) of each kind."""
    return {kind: run_node(pack_nodes, "Guidance_LoadModel", model_name=f"{kind}.safetensors") for kind in KINDS}


def picture(seed=3, size=(40, 56)):
    return torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(seed))


def sample(execute, model, steps=4, batch=2, seed=5, sampler="euler", latent=None, noise=None, mask=None, sigmas=None):
    """The host's own sampling, in inference mode as in a node."""
    import comfy.sample

    (empty,) = execute("Guidance_EmptyPixelLatent", width=32, height=32, batch_size=batch)
    (cond,) = execute("Guidance_ClassConditioning", model=model, class_label="")
    with torch.inference_mode():
        if latent is None:
            latent = comfy.sample.fix_empty_latent_channels(model, empty["samples"], 1)
        if noise is None:
            noise = comfy.sample.prepare_noise(latent, seed)
        options = {"seed": seed, "noise_mask": mask, "sigmas": sigmas, "disable_pbar": True}
        return comfy.sample.sample(model, noise, steps, 1.0, sampler, "normal", cond, cond, latent, **options)


def text_guide(execute, encoder, text="a red star", **options):
    return execute(
        "Guidance_TextGuide", encoder=encoder, text=text, **{"start_percent": 0.0, "end_percent": 1.0, **options}
    )[0]


def applied(execute, model, guides, vae=None, **options):
    return execute("Guidance_ApplyGuides", model=model, guides=guides, vae=vae, **options)[0]


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


def guide_of(execute, encoder, kind):
    image = {"encoder": encoder, "image": picture(), "start_percent": 0.0, "end_percent": 1.0}
    if kind == "text":
        return text_guide(execute, encoder)
    if kind == "palette":
        return execute("Guidance_PaletteGuide", image=picture(), start_percent=0.0, end_percent=1.0)[0]
    if kind == "classifier":
        (classifier,) = execute("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")
        return execute("Guidance_ClassifierGuide", classifier=classifier, class_label="star", weight=20.0)[0]
    name, _, method = kind.partition(" ")
    return execute(f"Guidance_{name.title()}Guide", **image, **({"method": method} if method else {}))[0]


GUIDES = ["text", "content", "structure difference", "structure self-similarity", "style", "palette", "classifier"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guide", GUIDES)
def test_every_guide_lowers_its_loss_on_every_kind_of_model(execute, encoder, models, kind, guide):
    model, vae = models[kind]
    strength = 0.02 if guide == "structure difference" else 1.0
    guides = guide_of(execute, encoder, guide)
    last = {}
    for name, scale in (("with", 1.0), ("without", 1e-9)):
        steered = applied(execute, model, guides, vae, strength=scale * strength, gradient="at denoised", unit="lambda")
        samples = sample(execute, steered, steps=8, batch=4)
        _, text = execute("Guidance_GuideReport", model=steered, samples={"samples": samples})
        (rows,) = json.loads(text)["guides"].values()
        last[name] = rows[-1]["loss"]
    assert last["with"] < last["without"]


@pytest.fixture
def smooth(monkeypatch):
    """The encoder without kinks. The U-Net's own rounding differs between batch sizes by 1e-6; it flips ReLUs now and
    then, and a flip moves a gradient by 1e-3. That is the encoder's, not the engine's.

    The outer relu cuts nothing. It keeps the gradient's strides those of the maps: with others, PyTorch 2.11 gives a
    wrong gradient of batch norm for a single picture.
    """
    from pack.models.clip_noisy import network

    monkeypatch.setattr(network, "relu", lambda h: torch.relu(torch.nn.functional.silu(h) + 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", ["auto", *ESTIMATORS])
def test_an_image_of_a_batch_equals_itself_alone_after_one_step(execute, encoder, models, smooth, kind, gradient):
    model, vae = models[kind]
    guides = text_guide(execute, encoder) + guide_of(execute, encoder, "style")
    steered = applied(execute, model, guides, vae, gradient=gradient, unit="lambda")
    # the unguided model itself differs by 1e-5 sigma, 2e-4 from its largest
    compare_batch_with_alone(execute, steered, tolerance=1e-5, sigmas=torch.tensor([0.5, 0.0]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_holds_after_twenty_steps(execute, encoder, models, smooth, kind):
    model, vae = models[kind]
    guides = text_guide(execute, encoder) + guide_of(execute, encoder, "content")
    compare_batch_with_alone(execute, applied(execute, model, guides, vae, unit="lambda"), tolerance=1e-3, steps=20)


def compare_batch_with_alone(execute, model, tolerance, **options):
    shape = sample(execute, model, steps=1, batch=1).shape
    noise = torch.randn(8, *shape[1:], generator=torch.Generator().manual_seed(1))
    empty = torch.zeros(8, *shape[1:])
    whole = sample(execute, model, latent=empty, noise=noise, **options)
    for k in (0, 3, 7):
        alone = sample(execute, model, latent=empty[:1], noise=noise[k : k + 1], **options)
        error = (whole[k : k + 1] - alone).abs().max() / whole.abs().max()
        assert error < tolerance, (k, error)


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
    """The published rules: through the score in DDIM, by moving the mean in DDPM, learned variance included."""
    import comfy.samplers

    model, _ = models["scenes_unet"]
    (classifier,) = execute("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")
    guides = execute("Guidance_ClassifierGuide", classifier=classifier, class_label="star", weight=8.0)[0]
    (latent,) = execute("Guidance_EmptyPixelLatent", width=32, height=32, batch_size=2)
    (cond,) = execute("Guidance_ClassConditioning", model=model, class_label="")
    (sigmas,) = execute("Guidance_RespacedSigmas", model=model, respacing="6")
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
            steps=6,
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
        torch.testing.assert_close(found, expected["samples"], rtol=1e-4, atol=1e-4)


def evaluations(execute, models, encoder, monkeypatch, sampler="euler", steps=8, **options):
    """How often the encoder looked, over a run."""
    model, vae = models["scenes_unet"]
    looks = []
    original = encoder.network.stages
    monkeypatch.setattr(encoder.network, "stages", lambda *a, **k: looks.append(1) or original(*a, **k), raising=False)
    guide = {key: options.pop(key) for key in ("start_percent", "end_percent") if key in options}
    steered = applied(execute, model, text_guide(execute, encoder, **guide), vae, **options)
    sample(execute, steered, steps=steps, sampler=sampler)
    return len(looks)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, 8),
        ({"every": 2}, 4),
        ({"every": 3}, 3),
        ({"every": 100}, 1),
        ({"start_percent": 0.5}, 4),
        ({"gradient": "at denoised optimised", "inner_steps": 4}, 32),
        ({"recurrence": 2}, 15),  # the last step has no way back
        ({"sampler": "heun"}, 8),  # two model calls a step, one look
        ({"sampler": "dpm_2"}, 8),
    ],
    ids=lambda value: str(value),
)
def test_guides_are_evaluated_only_where_they_were_asked_to(execute, encoder, models, monkeypatch, options, expected):
    assert evaluations(execute, models, encoder, monkeypatch, **options) == expected


def test_a_reference_of_a_clean_guide_is_measured_once_for_each_view(execute, encoder, models, monkeypatch):
    model, vae = models["scenes_unet"]
    encoder.references.clear()
    guides = guide_of(execute, encoder, "style")
    (guide,) = guides
    counted = []
    original = guide.measured
    monkeypatch.setattr(type(guide), "measured", lambda self, *a: counted.append(1) or original(*a))
    steered = applied(execute, model, guides, gradient="at denoised")
    sample(execute, steered, steps=12)
    first = len(counted)
    assert first == 4  # sets of crops
    again = applied(execute, model, guide_of(execute, encoder, "style"), gradient="at denoised")
    sample(execute, again, steps=12, seed=77)
    assert len(counted) == first  # the same pixels through another node


def test_reference_noise_is_the_runs_own_fresh_at_each_step_or_fixed(execute, encoder, models):
    model, _ = models["scenes_unet"]
    images = {}
    for noise in ("fresh", "fixed"):
        (guides,) = execute(
            "Guidance_ContentGuide", encoder=encoder, image=picture(), reference_noise=noise, weight=3.0
        )
        steered = applied(execute, model, guides)
        images[noise] = sample(execute, steered)
        assert torch.equal(images[noise], sample(execute, steered))
    assert not torch.equal(images["fresh"], images["fixed"])


def test_state_does_not_survive_a_run_that_ended_with_an_exception(execute, encoder, models):
    model, vae = models["scenes_unet"]
    guides = text_guide(execute, encoder) + guide_of(execute, encoder, "style")
    steered = applied(execute, model, guides, every=2)
    first = sample(execute, steered)
    original, calls = guides[0].compare, []

    def broken(found, wanted):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("a guide broke")
        return original(found, wanted)

    object.__setattr__(guides[0], "compare", broken)
    with pytest.raises(RuntimeError, match="a guide broke"):
        sample(execute, steered)
    object.__setattr__(guides[0], "compare", original)
    sample(execute, applied(execute, models["scenes_flow"][0], guides))
    assert torch.equal(sample(execute, steered), first)
    assert "diffusion_guidance" not in steered.model_options


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

    from pack.nodes.host.sight import Sight

    model = SimpleNamespace(model=SimpleNamespace(latent_format=comfy.latent_formats.Wan21()))
    z = torch.randn(2, 16, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    colours = Sight(model, None).colours(z)
    assert colours.shape == (2, 3, 3 * 4 * 5)


BAD = [
    ("Guidance_TextGuide", {"text": "a red stra"}, "input 'text': .*'stra'; did you mean star"),
    ("Guidance_TextGuide", {"text": "a " * 17}, "input 'text': the text has 17 words, this encoder reads 16"),
    ("Guidance_TextGuide", {"text": " "}, "input 'text': the text is empty"),
    ("Guidance_TextGuide", {"text": "a star", "start_percent": 0.8, "end_percent": 0.2}, "ends .0.2. before it starts"),
    ("Guidance_TextGuide", {"text": "a star", "weight": float("nan")}, "the weight is nan"),
    ("Guidance_StyleGuide", {"image": picture(), "layers": "relu1_1"}, "input 'layers': there is no layer 'relu1_1'"),
    ("Guidance_ContentGuide", {"image": torch.rand(1, 8, 8, 4)}, "input 'image': the picture has an alpha channel"),
    ("Guidance_ContentGuide", {"image": torch.rand(1, 0, 8, 3)}, "input 'image': an IMAGE with 3 colour channels"),
]


@pytest.mark.parametrize("node, inputs, words", BAD, ids=[f"{node} {words[:24]}" for node, _, words in BAD])
def test_bad_input_is_one_sentence_with_node_and_input(execute, encoder, node, inputs, words):
    with pytest.raises(ValueError, match=words) as error:
        execute(node, encoder=encoder, **inputs)
    assert node in str(error.value) and "\n" not in str(error.value)


def test_a_latent_model_without_a_way_to_pixels_is_refused(execute, encoder, models):
    with pytest.raises(ValueError, match="input 'vae': a guide looks at pixels and this model works on latents"):
        applied(execute, models["scenes_latent"][0], text_guide(execute, encoder))
    palette = guide_of(execute, encoder, "palette")
    assert applied(execute, models["scenes_latent"][0], palette) is not None


def test_noisy_gradients_of_guides_that_cannot_have_them_are_refused(execute, encoder, models):
    with pytest.raises(
        ValueError, match="input 'gradient': at noisy: the guide 'palette' can't look at noisy pictures"
    ):
        applied(execute, models["scenes_unet"][0], guide_of(execute, encoder, "palette"), gradient="at noisy")
    model, vae = models["scenes_latent"]
    with pytest.raises(ValueError, match="this model works on latents"):
        applied(execute, model, text_guide(execute, encoder), vae, gradient="at noisy")


@pytest.mark.parametrize("guide", ["text", "classifier"])
def test_noisy_pictures_of_another_size_are_refused_and_clean_ones_are_resized(execute, encoder, models, guide):
    model, _ = models["scenes_unet"]
    guides = guide_of(execute, encoder, guide)
    large = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match="looks at noisy pictures of 32 x 32, the sample is 64 x 64"):
        sample(execute, applied(execute, model, guides), latent=large, steps=2)
    steered = applied(execute, model, guides, gradient="at denoised")
    assert sample(execute, steered, latent=large, steps=2).shape == large.shape


def test_a_report_of_a_model_that_never_sampled_or_has_no_guides_says_so(execute, encoder, models):
    model, _ = models["scenes_unet"]
    _, text = execute("Guidance_GuideReport", model=model, samples={"samples": torch.zeros(1)})
    assert "has no guides" in json.loads(text)["note"]
    steered = applied(execute, model, text_guide(execute, encoder))
    image, text = execute("Guidance_GuideReport", model=steered, samples={"samples": torch.zeros(1)})
    assert "has not sampled yet" in json.loads(text)["note"]
    assert image.shape[-1] == 3 and image.min() >= 0 and image.max() <= 1


def test_a_gradient_of_nan_is_left_out_and_said_once(execute, encoder, models, caplog):
    model, _ = models["scenes_unet"]
    guides = text_guide(execute, encoder)
    original = guides[0].compare
    object.__setattr__(guides[0], "compare", lambda found, wanted: original(found, wanted) * float("nan"))
    steered = applied(execute, model, guides)
    assert torch.equal(sample(execute, steered), sample(execute, model))
    said = [record for record in caplog.records if "NaN or infinite" in record.getMessage()]
    assert len(said) == 1


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "uni_pc"])
def test_recurrence_is_refused_where_a_sampler_would_extrapolate_its_noise(execute, encoder, models, sampler):
    steered = applied(execute, models["scenes_unet"][0], text_guide(execute, encoder), recurrence=2)
    with pytest.raises(ValueError, match="recurrence above 1 needs the sampler euler or ddim"):
        sample(execute, steered, sampler=sampler)
    assert torch.isfinite(sample(execute, steered, sampler="ddim")).all()


def test_a_held_direction_ends_with_its_guides_window_and_at_a_rising_sigma(execute, encoder, models, monkeypatch):
    looks = []
    original = encoder.network.stages
    monkeypatch.setattr(encoder.network, "stages", lambda *a, **k: looks.append(1) or original(*a, **k), raising=False)
    model, _ = models["scenes_unet"]
    early = text_guide(execute, encoder, end_percent=0.5)
    late = text_guide(execute, encoder, "blue background", start_percent=0.5)
    sample(execute, applied(execute, model, early + late, every=100), steps=8)
    assert len(looks) == 2  # one for each window
    looks.clear()
    levels = torch.tensor([10.0, 5.0, 2.0, 10.0, 5.0, 2.0, 0.0])
    sample(execute, applied(execute, model, text_guide(execute, encoder)), sigmas=levels)
    assert len(looks) == 6


@pytest.fixture(scope="module")
def clip_vision(comfy):
    """A small random CLIP_VISION of the host, made in a node as its loader makes it."""
    import comfy.clip_vision

    config = {"hidden_act": "gelu", "hidden_size": 32, "image_size": 32, "intermediate_size": 64, "num_channels": 3}
    config |= {"model_type": "clip_vision_model", "num_attention_heads": 2, "num_hidden_layers": 3, "patch_size": 8}
    with torch.inference_mode():
        vision = comfy.clip_vision.ClipVisionModel({**config, "projection_dim": 16})
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
    from pack.nodes.host.clip_vision import VisionNetwork

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


def test_what_an_encoder_remembers_of_references_is_bounded_whatever_the_seeds(execute, encoder, models):
    model, _ = models["scenes_unet"]
    steered = applied(execute, model, guide_of(execute, encoder, "style"), gradient="at denoised")
    sizes = []
    for seed in range(3):
        sample(execute, steered, steps=5, seed=seed)
        sizes.append(sum(len(cache) for cache in encoder.references.values()))
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_report_of_losses_that_are_not_finite_is_drawn_and_is_json(execute, encoder, models):
    model, _ = models["scenes_unet"]
    guides = text_guide(execute, encoder)
    original = guides[0].compare
    object.__setattr__(guides[0], "compare", lambda found, wanted: original(found, wanted) * float("nan"))
    steered = applied(execute, model, guides)
    samples = sample(execute, steered)
    image, text = execute("Guidance_GuideReport", model=steered, samples={"samples": samples})
    rows = json.loads(text, parse_constant=lambda name: pytest.fail(name))["guides"]["text: a red star"]
    assert all(row["loss"] is None and row["dropped"] == 1 for row in rows)
    assert torch.isfinite(image).all()
