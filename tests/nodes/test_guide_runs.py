"""Runs with guides: what is evaluated and remembered, refused in words, and reported."""

import json

import pytest
import torch
from guided_sampling import applied, guide_of, picture, sample, text_guide

pytestmark = pytest.mark.host


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
        ({"sampler": "heun"}, 15),  # two model calls a step but the last, fresh at each
        ({"sampler": "dpm_2"}, 15),
        ({"sampler": "dpm_2", "every": 2}, 4),
    ],
    ids=lambda value: str(value),
)
def test_guides_are_evaluated_only_where_they_were_asked_to(execute, encoder, models, monkeypatch, options, expected):
    assert evaluations(execute, models, encoder, monkeypatch, **options) == expected


def test_a_reference_of_a_clean_guide_is_measured_once_for_each_view(execute, encoder, models, monkeypatch):
    model, vae = models["scenes_unet"]
    encoder.references.known.clear()
    guides = guide_of(execute, encoder, "style")
    (guide,) = guides
    counted = []
    original = guide.measured
    monkeypatch.setattr(type(guide), "measured", lambda self, *a: counted.append(1) or original(*a))
    steered = applied(execute, model, guides, gradient="at denoised")
    sample(execute, steered, steps=12)
    first = len(counted)
    assert 2 <= first <= 4  # sets of crops
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


def test_what_an_encoder_remembers_of_references_is_bounded_whatever_the_seeds(execute, encoder, models):
    model, _ = models["scenes_unet"]
    steered = applied(execute, model, guide_of(execute, encoder, "style"), gradient="at denoised")
    sizes = []
    for seed in range(3):
        sample(execute, steered, steps=5, seed=seed)
        sizes.append(len(encoder.references.known))
    assert sizes[0] == sizes[1] == sizes[2]


BAD = [
    ("Guidance_TextGuide", {"text": "a red stra"}, "'stra'; did you mean star.*input 'text'"),
    ("Guidance_TextGuide", {"text": "a " * 17}, "the text has 17 words, this encoder reads 16.*input 'text'"),
    ("Guidance_TextGuide", {"text": " "}, "the text is empty.*input 'text'"),
    ("Guidance_TextGuide", {"text": "a star", "start_percent": 0.8, "end_percent": 0.2}, "ends .0.2. before it starts"),
    (
        "Guidance_TextGuide",
        {"text": "a star", "weight": float("nan")},
        "-1000.0 to 1000.0 are possible, and nan.*input 'weight'",
    ),
    ("Guidance_StyleGuide", {"image": picture(), "layers": "relu1_1"}, "there is no layer 'relu1_1'.*input 'layers'"),
    ("Guidance_ContentGuide", {"image": torch.rand(1, 8, 8, 4)}, "the picture has an alpha channel.*input 'image'"),
    ("Guidance_ContentGuide", {"image": torch.rand(1, 0, 8, 3)}, "an IMAGE with 3 colour channels.*input 'image'"),
]


@pytest.mark.parametrize("node, inputs, words", BAD, ids=[f"{node} {words[:24]}" for node, _, words in BAD])
def test_bad_input_is_one_sentence_with_node_and_input(execute, pack_nodes, encoder, node, inputs, words):
    with pytest.raises(ValueError, match=words) as error:
        execute(node, encoder=encoder, **inputs)
    assert pack_nodes[node].GET_SCHEMA().display_name in str(error.value) and "\n" not in str(error.value)


def test_a_latent_model_without_a_way_to_pixels_is_refused(execute, encoder, models):
    with pytest.raises(ValueError, match="a guide looks at pixels and this model works on latents.*input 'vae'"):
        applied(execute, models["scenes_latent"][0], text_guide(execute, encoder))
    palette = guide_of(execute, encoder, "palette")
    assert applied(execute, models["scenes_latent"][0], palette) is not None


def test_noisy_gradients_of_guides_that_cannot_have_them_are_refused(execute, encoder, models):
    with pytest.raises(
        ValueError, match="at noisy: the guide 'palette' can't look at noisy pictures.*input 'gradient'"
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


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "uni_pc"])
def test_recurrence_is_refused_where_a_sampler_would_extrapolate_its_noise(execute, encoder, models, sampler):
    steered = applied(execute, models["scenes_unet"][0], text_guide(execute, encoder), recurrence=2)
    with pytest.raises(ValueError, match="recurrence above 1 needs the sampler euler or ddim"):
        sample(execute, steered, sampler=sampler)
    assert torch.isfinite(sample(execute, steered, sampler="ddim")).all()


def test_a_gradient_of_nan_is_left_out_and_said_once(execute, encoder, models, caplog):
    model, _ = models["scenes_unet"]
    guides = text_guide(execute, encoder)
    original = guides[0].compare
    object.__setattr__(guides[0], "compare", lambda found, wanted: original(found, wanted) * float("nan"))
    steered = applied(execute, model, guides)
    assert torch.equal(sample(execute, steered), sample(execute, model))
    said = [record for record in caplog.records if "NaN or infinite" in record.getMessage()]
    assert len(said) == 1


def test_a_report_of_a_model_that_never_sampled_or_has_no_guides_says_so(execute, encoder, models):
    model, _ = models["scenes_unet"]
    _, text = execute("Guidance_GuideReport", model=model, samples={"samples": torch.zeros(1)})
    assert "has no guides" in json.loads(text)["note"]
    steered = applied(execute, model, text_guide(execute, encoder))
    image, text = execute("Guidance_GuideReport", model=steered, samples={"samples": torch.zeros(1)})
    assert "has not sampled yet" in json.loads(text)["note"]
    assert image.shape[-1] == 3 and image.min() >= 0 and image.max() <= 1


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


@pytest.mark.parametrize("wired", ["vae", "tiny_vae", None])
def test_a_report_says_which_decoder_the_guides_looked_through(execute, encoder, models, wired):
    model, vae = models["scenes_unet" if wired is None else "scenes_latent"]
    steered = applied(execute, model, text_guide(execute, encoder), **({wired: vae} if wired else {}))
    samples = sample(execute, steered, steps=1)
    image, text = execute("Guidance_GuideReport", model=steered, samples={"samples": samples})
    assert json.loads(text)["decoder"] == (f"input {wired}" if wired else "")
    assert torch.isfinite(image).all()


def test_a_taesd_in_the_folder_goes_before_the_wired_vae_and_the_report_says_so(execute, encoder, tmp_path):
    import folder_paths
    import host_unets
    from comfy.taesd.taesd import TAESD
    from safetensors.torch import save_file

    from pack.nodes.host.pictures import vae_around

    network = TAESD(None, None, latent_channels=4)
    save_file(network.taesd_decoder.state_dict(), tmp_path / "taesd_decoder.safetensors")
    save_file(network.taesd_encoder.state_dict(), tmp_path / "taesd_encoder.safetensors")
    model, vae = host_unets.sd15(width=32)[0], vae_around(network, 4, 8)
    found = {}
    for folder in ("without", "with"):
        if folder == "with":
            folder_paths.add_model_folder_path("vae_approx", str(tmp_path))
        folder_paths.filename_list_cache.clear()
        steered = applied(execute, model, text_guide(execute, encoder), vae)
        _, text = execute("Guidance_GuideReport", model=steered, samples={"samples": torch.zeros(1)})
        found[folder] = json.loads(text)["decoder"]
    folder_paths.folder_names_and_paths["vae_approx"][0].remove(str(tmp_path))
    folder_paths.filename_list_cache.clear()
    assert found == {"without": "input vae", "with": "taesd_decoder.safetensors in models/vae_approx"}
