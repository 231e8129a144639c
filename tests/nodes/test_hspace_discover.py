"""Discover HSpace: directions of two conditions, of principal components, and between two sets of pictures."""

import json

import pytest
import torch
from hspace_scenes import images, off, random, refused, run

pytestmark = pytest.mark.host
STEPS = 6


@pytest.fixture
def pixels(scenes):
    return scenes["scenes_unet"]


@pytest.mark.parametrize("method", ["contrast", "pca"])
def test_discovered_directions_show_the_plain_picture_at_strength_zero(scenes, execute, edit, method):
    scene = scenes["scenes_unet"]
    hspace, sheet, report = execute(
        "Guidance_DiscoverHSpace",
        model=scene.model,
        method=method,
        positive=scene.positive,
        negative=scene.negative,
        samples=3,
        components=2,
        component=2,
        steps=2,
    )
    side = scene.shape[1]
    assert json.loads(report) == {"place": "bottleneck"}
    assert sheet.shape == (1, side * (1 if method == "contrast" else 2), 5 * side, 3)
    (found,) = hspace
    assert found.tensors["delta_h"].shape[:2] == (8, scene.channels)
    assert found.tensors["delta_h"].abs().max() > 0
    assert found.name == ("contrast" if method == "contrast" else "component 2")
    shown = scene.negative if method == "contrast" else scene.positive
    plain = run(scene.model, scene, random(*scene.shape, seed=0)[None], positive=shown)
    middle = sheet[0, :side, 2 * side : 3 * side]
    assert (middle - (plain[0].movedim(0, -1) + 1).clamp(0, 2) / 2).abs().max() < 1e-4
    edit(scene.model, found)


def read(model, positive, noise, **beside):
    """{(sigma, the guider's name): h} of a plain run."""
    from pack.nodes.host.hspace.record import recording
    from pack.nodes.host.sampling import sampled

    found = {}

    def keep(h, place):
        for name, rows in zip(place.names, h.chunk(len(place.names)), strict=True):
            found[place.sigma, name] = rows

    with torch.inference_mode():
        latents = sampled(recording(model, keep), positive, noise, STEPS, **beside)
    return found, latents


def test_a_contrast_reads_both_conditions_at_the_pictures_of_the_negative_one(scenes, execute):
    scene = scenes["scenes_unet"]
    noise = torch.stack([random(*scene.shape, seed=seed) for seed in (7, 8)])
    both, latents = read(scene.model, scene.negative, noise, beside=scene.positive)
    alone, plain = read(scene.model, scene.negative, noise)
    other, _ = read(scene.model, scene.positive, noise)
    assert off(latents, plain) < 1e-3
    assert all(off(both[level, name], h) < 4e-4 for (level, name), h in alone.items())
    first = max(level for level, _ in other)
    assert off(both[first, "negative"], other[first, "positive"]) < 4e-6
    rest = [level for level, _ in other if level != first]
    assert all(off(both[level, "negative"], other[level, "positive"]) > 1e-2 for level in rest)  # other pictures

    given = {"positive": scene.positive, "negative": scene.negative, "samples": 2, "seed": 7}
    (found,), *_ = execute("Guidance_DiscoverHSpace", model=scene.model, method="contrast", steps=STEPS, **given)
    expected = (both[first, "negative"] - both[first, "positive"]).mean(0)
    assert off(found.tensors["delta_h"][0], expected) < 1e-5


def test_a_condition_against_itself_gives_no_direction(scenes, execute):
    scene = scenes["scenes_unet"]
    given = {"positive": scene.negative, "negative": scene.negative, "samples": 2, "steps": 2}
    (found,), *_ = execute("Guidance_DiscoverHSpace", model=scene.model, method="contrast", **given)
    assert found.tensors["delta_h"].abs().max() < 1e-5


def test_what_discover_needs_is_said_in_words(scenes, execute):
    pixels, host = scenes["scenes_unet"], scenes["unet"]
    given = {"model": pixels.model, "positive": pixels.positive}
    with pytest.raises(ValueError, match="a contrast needs two conditions.*input 'negative'"):
        execute("Guidance_DiscoverHSpace", method="contrast", **given)
    with pytest.raises(ValueError, match="component 5 was asked for, and there are 4.*input 'component'"):
        execute("Guidance_DiscoverHSpace", method="pca", component=5, **given)
    with pytest.raises(ValueError, match="need more than 4 samples.*input 'samples'"):
        execute("Guidance_DiscoverHSpace", method="pca", samples=4, **given)
    with pytest.raises(ValueError, match="input 'vae'"):
        execute("Guidance_DiscoverHSpace", method="pca", model=host.model, positive=host.positive)


# Directions between two sets of pictures


@pytest.fixture
def discover(execute, pixels):
    def find(**given):
        options = {"model": pixels.model, "method": "contrast", "positive": pixels.negative, "steps": STEPS}
        return execute("Guidance_DiscoverHSpace", samples=2, **{**options, **given})

    return find


def test_the_direction_is_the_difference_of_mean_h_along_both_inversions(discover, pixels):
    from pack.nodes.host.hspace.inject import content_of
    from pack.nodes.host.inversion import inversion_sigmas
    from pack.nodes.host.model import progress_function

    sets = images(3, seed=1), images(2, seed=2)
    (found,), sheet, _ = discover(positive_images=sets[0], negative_images=sets[1])
    sigmas = inversion_sigmas(pixels.model, STEPS, "")
    progress = progress_function(pixels.model.get_model_object("model_sampling"))
    with torch.inference_mode():
        levels = [
            content_of(pixels.model, part.movedim(-1, 1) * 2 - 1, pixels.negative, sigmas).levels for part in sets
        ]
    for bucket in range(8):
        inside = [sigma for sigma in levels[0] if min(7, int(8 * progress(sigma))) == bucket]
        if inside:
            means = [torch.stack([part[sigma].mean(0) for sigma in inside]).mean(0) for part in levels]
            assert off(found.tensors["delta_h"][bucket], means[0] - means[1]) < 1e-4
    assert found.name == "contrast" and found.fingerprint
    assert sheet.shape == (1, 32, 5 * 32, 3)


def test_a_set_against_itself_gives_no_direction(discover):
    same = images(2)
    (found,), *_ = discover(positive_images=same, negative_images=same)
    assert found.tensors["delta_h"].abs().max() == 0


def test_the_sheet_is_drawn_under_the_condition_of_the_inversion(discover, pixels):
    _, sheet, _ = discover(positive_images=images(2), negative_images=images(2, seed=1))
    plain = run(pixels.model, pixels, random(*pixels.shape, seed=0)[None], steps=STEPS, positive=pixels.negative)
    middle = sheet[0, :, 64:96]
    assert (middle - (plain[0].movedim(0, -1) + 1).clamp(0, 2) / 2).abs().max() < 1e-4


def test_what_two_sets_need_is_said_in_words(discover):
    refused(lambda: discover(positive_images=images(1)), "input 'negative_images'", "only one is connected")
    refused(lambda: discover(negative_images=images(1)), "input 'positive_images'", "only one is connected")
    sizes = {"positive_images": images(1), "negative_images": images(1, size=40)}
    refused(lambda: discover(**sizes), "input 'negative_images'", "32 x 32 and 40 x 40")
