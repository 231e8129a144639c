"""Asyrp Timing: curves, thresholds and percents as the paper and the nodes mean them, with LPIPS and without."""

import json
from pathlib import Path

import lpips_files
import pytest
import torch
from conftest import run_node
from hspace_scenes import images, refused

pytestmark = pytest.mark.host
STEPS = 6


@pytest.fixture
def pixels(scenes):
    return scenes["scenes_unet"]


@pytest.fixture(scope="module")
def lpips(pack_nodes):
    """(torchvision's features, weights, GUIDANCE_ENCODER out of the same file)."""
    import folder_paths

    features, weights = lpips_files.drawn("alex")
    folder = Path(folder_paths.get_folder_paths("guidance_encoders")[0])
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(lpips_files.state("alex", features, weights), folder / "lpips.pth")
    folder_paths.filename_list_cache.clear()
    return features, weights, run_node(pack_nodes, "Guidance_LoadEncoder", encoder_name="lpips.pth")[0]


@pytest.fixture
def timing(execute, pixels):
    """(t_edit, t_boost, plot, report) of the pack's pixel model."""

    def measure(image, **options):
        edit, boost, picture, report = execute(
            "Guidance_AsyrpTiming", model=pixels.model, image=image, steps=STEPS, **options
        )
        return edit, boost, picture, json.loads(report)

    return measure


def by_hand(pixels, image):
    """[(P_t, x_t)] of plain DDIM backwards in x_t, with the model's own predictions."""
    import comfy.samplers

    from pack.nodes.host.inversion import inversion_sigmas, no_conditioning

    levels = inversion_sigmas(pixels.model, STEPS, "").tolist()
    found = []

    def look(model, x, sigmas, extra_args, callback, disable):
        x_t = image.movedim(-1, 1) * 2 - 1
        for sigma, following in zip(levels[:-1], levels[1:], strict=True):
            root, after = (1 + sigma**2) ** 0.5, (1 + following**2) ** 0.5
            denoised = model(x_t * root, torch.full((len(x_t),), sigma), **extra_args)
            found.append((denoised, x_t))
            eps = (x_t * root - denoised) / sigma
            x_t = denoised / after + eps * following / after
        return x

    with torch.inference_mode():
        guider = comfy.samplers.CFGGuider(pixels.model)
        guider.inner_set_conds({"positive": no_conditioning(pixels.model)})
        noise = torch.zeros(len(image), *pixels.shape)
        guider.sample(noise, noise, comfy.samplers.KSAMPLER(look), torch.tensor([1.0, 0.0]), disable_pbar=True, seed=0)
    return found


def test_with_lpips_the_curves_are_the_papers_and_so_are_the_thresholds(timing, pixels, lpips):
    from pack.guidance.views import centred

    features, weights, encoder = lpips
    picture = images(2, seed=3)
    _, _, plot, report = timing(picture, encoder=encoder)
    x0 = centred(picture.movedim(-1, 1) * 2 - 1, 256, 256)
    expected = [
        [lpips_files.distance("alex", features, weights, centred(part, 256, 256), x0).mean().item() for part in pair]
        for pair in by_hand(pixels, picture)
    ]
    assert report["distance"] == "LPIPS (alex)" and "not LPIPS" not in report["note"]
    assert (report["t_edit"]["threshold"], report["t_boost"]["threshold"]) == (0.33, 1.2)
    assert report["t_edit"]["values"] == pytest.approx([row[0] for row in expected], rel=1e-3, abs=1e-5)
    assert report["t_boost"]["values"] == pytest.approx([row[1] for row in expected], rel=1e-3, abs=1e-5)
    assert plot.ndim == 4 and plot.shape[0] == 1


def test_percents_are_those_of_hspace_edit_and_asyrp_sampler(timing, pixels):
    from pack.nodes.host.inversion import inversion_sigmas

    sampling = pixels.model.get_model_object("model_sampling")
    edit, boost, _, report = timing(images(1))
    _, *sigmas = inversion_sigmas(pixels.model, STEPS, "").tolist()[:-1]  # the lowest is the end of the run
    first, *places = report["t_edit"]["progress"]
    assert first == pytest.approx(1, abs=1e-3)
    assert [float(sampling.percent_to_sigma(place)) for place in places] == pytest.approx(sigmas, rel=0.01)
    assert (edit, boost) == (report["t_edit"]["percent"], report["t_boost"]["percent"])
    assert 0 < boost < 1 and 0 < edit < 1


@pytest.mark.parametrize("name, share", [("t_edit", 0.28), ("t_boost", 0.85)])
def test_without_lpips_thresholds_are_shares_of_the_largest_distance_and_it_is_said(timing, encoder, name, share):
    for given in ({}, {"encoder": encoder}):
        report = timing(images(2), **given)[3]
        assert report[name]["threshold"] == pytest.approx(share * max(report[name]["values"]), rel=1e-3)
        assert "this is not LPIPS" in report["note"]


def test_the_farther_the_texts_the_lower_the_threshold(timing, encoder):
    plain = timing(images(1), encoder=encoder)[3]
    texts = {"source_text": "a red star", "target_text": "a blue star"}
    moved = timing(images(1), encoder=encoder, **texts)[3]
    cosine = torch.nn.functional.cosine_similarity(*(encoder.text(text) for text in texts.values())).item()
    assert plain["cosine"] == 1 and moved["cosine"] == pytest.approx(cosine)
    assert moved["t_edit"]["threshold"] == pytest.approx(cosine * plain["t_edit"]["threshold"])
    assert moved["t_boost"]["threshold"] == pytest.approx(plain["t_boost"]["threshold"])


def test_curves_are_means_over_the_pictures(timing):
    picture = images(10)
    alone = [timing(part)[3]["t_edit"]["values"] for part in picture.split(1)]
    together = timing(picture)[3]["t_edit"]["values"]
    assert together == pytest.approx([sum(values) / 10 for values in zip(*alone, strict=True)], rel=1e-3, abs=2e-5)


def test_a_threshold_that_is_never_reached_gives_the_published_default():
    from pack.guidance.asyrp_timing import Fading
    from pack.nodes.hspace_pictures import phase

    part = phase(Fading([1.0, 0.5], [0.0, 0.1]), 0.33, 0.5)
    assert part["percent"] == 0.5 and not part["reached"]


def test_an_lpips_takes_the_texts_of_another_encoder(execute, encoder, timing, lpips):
    (both,) = execute("Guidance_LoadEncoder", encoder_name="lpips.pth", text_encoder=encoder)
    report = timing(images(1), encoder=both, source_text="a red star", target_text="a blue star")[3]
    assert report["distance"] == "LPIPS (alex)" and report["t_edit"]["threshold"] == pytest.approx(
        0.33 * report["cosine"]
    )


def test_what_timing_needs_is_said_in_words(timing, encoder, lpips, host, execute):
    texts = {"source_text": "a red star", "target_text": "a blue star"}
    refused(lambda: timing(images(1), **texts), "Asyrp Timing", "input 'target_text'", "texts need an encoder")
    refused(lambda: timing(images(1), encoder=lpips[2], **texts), "input 'target_text'", "LPIPS knows no texts")
    half = {"encoder": encoder, "target_text": "a red star"}
    refused(lambda: timing(images(1), **half), "input 'source_text'", "the text is empty")
    given = {"model": host.model, "image": images(1), "conditioning": host.positive}
    refused(lambda: execute("Guidance_AsyrpTiming", **given), "input 'vae'", "works on latents")


def test_other_guides_refuse_an_lpips_or_work_with_its_maps(execute, lpips):
    with pytest.raises(ValueError, match="LPIPS knows no texts"):
        execute("Guidance_TextGuide", encoder=lpips[2], text="a red star")
    (guides,) = execute("Guidance_StyleGuide", encoder=lpips[2], image=images(1))
    pictures = torch.rand(1, 3, 256, 256) * 2 - 1
    found = guides[0].measured(pictures, torch.zeros(1))
    assert len(found) == 4  # Gram matrices of five layers; the two of one size are in one tensor
