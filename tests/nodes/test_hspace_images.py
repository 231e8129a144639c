"""h-space with given pictures: content injection, Asyrp's timing, directions between two sets of pictures."""

import json
import math
from pathlib import Path

import guided_sampling
import lpips_files
import pytest
import torch
from conftest import run_node
from hspace_scenes import off, on_hosts, predicted, random, run

pytestmark = pytest.mark.host
KINDS = [*guided_sampling.KINDS, "unet"]
STEPS = 6


@pytest.fixture(scope="module")
def scenes(models, pack_nodes):
    return on_hosts(models, pack_nodes)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def scene(scenes, kind):
    return scenes[kind]


@pytest.fixture
def host(scenes):
    return scenes["unet"]


@pytest.fixture
def pixels(scenes):
    return scenes["scenes_unet"]


def content(scene, count=1):
    """Samples to inject, as a LATENT."""
    return {"samples": 0.5 * random(count, *scene.shape, seed=20)}


@pytest.fixture
def inject(execute):
    """HSpace Inject of a LATENT in the whole run."""

    def apply(scene, latent=None, **options):
        given = {"latent": latent or content(scene), "conditioning": scene.positive, "steps": STEPS}
        given |= {"strength": 0.6, "start_percent": 0.0, "end_percent": 1.0, "calibration": 0.0}
        return execute("Guidance_HSpaceInject", **{"model": scene.model, **given, **options})[0]

    return apply


def images(count, seed=0, size=32):
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))


# Injection: nothing changes


@pytest.mark.parametrize("neutral", [{"strength": 0.0}, {"start_percent": 0.3, "end_percent": 0.3}])
def test_an_injection_of_nothing_is_the_model_itself(scene, inject, neutral):
    assert inject(scene, **neutral) is scene.model


@pytest.mark.parametrize("calibration", [0.0, 0.3])
def test_a_window_between_steps_leaves_every_bit(scene, inject, calibration):
    model = inject(scene, start_percent=0.98, end_percent=0.99, calibration=calibration)
    assert torch.equal(run(model, scene), run(scene.model, scene))


# Injection: the formula


def slerp(h, other, share):
    """By the definition, each sample for itself: a turn by `share` of the angle at h's own length."""
    rows = []
    for a, b in zip(h.double(), other.double(), strict=True):
        b = b * a.norm() / b.norm()
        angle = math.acos(float((a * b).sum() / a.norm() ** 2))
        rows.append((math.sin((1 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(angle))
    return torch.stack(rows).to(h)


def recorded(scene, latent):
    """{sigma: h} of the inversion, by a hook of torch on the host's U-Net."""
    from pack.nodes.host.inversion import inversion_sigmas, invert_latent

    seen = []
    layer = scene.model.model.diffusion_model.middle_block[-1]
    handle = layer.register_forward_hook(lambda module, inputs, h: seen.append(h.clone()))
    sigmas = inversion_sigmas(scene.model, STEPS, "")
    with torch.inference_mode():
        invert_latent(scene.model, latent["samples"], scene.positive, sigmas)
    handle.remove()
    return dict(zip(sigmas.tolist(), seen, strict=False))


def mixing(scene, other, share):
    """A hook that injects by hand."""
    layer = scene.model.model.diffusion_model.middle_block[-1]
    return layer.register_forward_hook(lambda module, inputs, h: slerp(h, other.expand_as(h), share))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_step_is_asyrps_with_h_turned_towards_the_nearest_noise_level(host, inject, cfg):
    """D' = D + (D~ - D) / (1 - 2 / 5) of both predictions, as in the published code."""
    found = recorded(host, content(host))
    nearest = min(found, key=lambda sigma: abs(math.log(sigma / 5.0)))
    plain = predicted(host.model, host, cfg=cfg)
    handle = mixing(host, found[nearest], 0.6)
    mixed = predicted(host.model, host, cfg=cfg)
    handle.remove()
    assert off(predicted(inject(host), host, cfg=cfg), plain + (mixed - plain) / (1 - 2 / 5)) < 1e-5


def test_calibration_evaluates_the_plain_model_where_the_published_code_does(kind, scene, inject):
    """X' = X + P^ - P - w (P~ - P); D' = D(X') + rho / (1 - rho) (X' - X). Of a flow (1 - sigma) of that is moved."""
    flow, omega = kind == "scenes_flow", 0.3
    levels = (0.8, 0.5, 0.0) if flow else (5.0, 2.0, 0.0)
    sigma, rho = levels[0], levels[1] / levels[0]
    plain = predicted(scene.model, scene, levels=levels)
    stepped = predicted(inject(scene), scene, levels=levels)
    edited = plain + (stepped - plain) * (1 - rho)
    centre = edited.mean((1, 2, 3), keepdim=True)
    spread = plain.std((1, 2, 3), keepdim=True) / edited.std((1, 2, 3), keepdim=True)
    shift = centre + spread * (edited - centre) - plain - omega * (edited - plain)
    shift = (1 - sigma) * shift if flow else shift
    assert shift.abs().max() > 1e-4
    after = predicted(scene.model, scene, noise=scene.noise + shift / sigma, levels=levels)
    found = predicted(inject(scene, calibration=omega), scene, levels=levels)
    assert off(found, after + rho / (1 - rho) * shift) < 1e-4


@pytest.mark.parametrize("calibration", [0.0, 0.3])
def test_the_whole_run_changes_and_stays_finite(scene, inject, calibration):
    changed = run(inject(scene, calibration=calibration), scene)
    assert changed.isfinite().all() and not torch.equal(changed, run(scene.model, scene))


@pytest.mark.parametrize("calibration", [0.0, 0.3])
def test_an_image_of_a_batch_equals_itself_with_its_own_content(scene, inject, calibration):
    latent, noise = content(scene, 2), random(3, *scene.shape, seed=6)
    levels, options = (0.3, 0.1, 0.0), {"calibration": calibration}
    together = predicted(inject(scene, latent, **options), scene, noise=noise, levels=levels)
    for index in range(3):
        own = {"samples": latent["samples"][index % 2][None]}
        alone = predicted(inject(scene, own, **options), scene, noise=noise[index : index + 1], levels=levels)
        assert off(alone[0], together[index]) < 1e-5


def test_each_prediction_of_cfg_gets_the_content_of_its_image():
    """Three images, two pictures: rows are cond 0 1 2, uncond 0 1 2. The nearest level counts in log sigma."""
    from pack.nodes.host.hspace import Moment
    from pack.nodes.host.hspace_record import Content

    pictures = torch.arange(2.0).view(2, 1, 1, 1)
    found = Content({1.0: pictures + 10, 8.0: pictures})
    rows = found(torch.zeros(6, 1, 1, 1), Moment(3.0, 1.0, 0.5, 10, chunks=2))
    assert rows.flatten().tolist() == [0, 1, 0, 0, 1, 0]
    rows = found(torch.zeros(6, 1, 1, 1), Moment(2.0, 1.0, 0.5, 10, chunks=2))
    assert rows.flatten().tolist() == [10, 11, 10, 10, 11, 10]


def test_the_content_is_that_of_the_model_without_its_edits(host, inject, execute):
    from pack.nodes.host.hspace import applications, direction_edit

    options = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    hspace = [direction_edit(5 * host.direction, name="d")]
    (edited,) = execute("Guidance_HSpaceEdit", model=host.model, hspace=hspace, **options)
    first, second = (applications(inject(host, model=model))[-1].content for model in (host.model, edited))
    assert all(torch.equal(first.levels[sigma], second.levels[sigma]) for sigma in first.levels)
    assert len(applications(inject(host, model=edited))) == 2


def test_a_content_of_another_size_is_stretched(host, inject):
    latent = {"samples": random(1, 4, 32, 32)}
    assert predicted(inject(host, latent), host).isfinite().all()


def test_a_picture_of_a_pixel_model_needs_neither_vae_nor_conditioning(pixels, execute):
    picture = images(1)
    (by_image,) = execute("Guidance_HSpaceInject", model=pixels.model, image=picture, steps=STEPS)
    latent = {"samples": picture.movedim(-1, 1) * 2 - 1}
    (by_latent,) = execute("Guidance_HSpaceInject", model=pixels.model, latent=latent, steps=STEPS)
    assert torch.equal(run(by_image, pixels), run(by_latent, pixels))


def refused(call, *parts):
    with pytest.raises(ValueError) as error:
        call()
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_what_injection_needs_is_said_in_words(host, pixels, inject, execute):
    def node(**given):
        return lambda: execute("Guidance_HSpaceInject", steps=STEPS, **given)

    refused(node(model=pixels.model), "HSpace Inject", "input 'image'", "connect either image or latent")
    both = {"image": images(1), "latent": content(pixels)}
    refused(node(model=pixels.model, **both), "input 'image'", "connect either image or latent")
    refused(node(model=host.model, image=images(1)), "input 'vae'", "works on latents")
    refused(node(model=host.model, latent=content(host)), "input 'conditioning'", "needs a CONDITIONING")
    model = host.model.clone()
    model.model = torch.nn.Module()
    model.model.diffusion_model = torch.nn.Linear(1, 1)
    refused(lambda: inject(host, model=model), "input 'model'", "h-space is the bottleneck of a U-Net")


# Timing


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
    from pack.nodes.hspace_images import phase

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
    assert len(guides[0].measured(pictures, torch.zeros(1))) == 5


# Directions between two sets of pictures


@pytest.fixture
def discover(execute, pixels):
    def find(**given):
        options = {"model": pixels.model, "method": "contrast", "positive": pixels.negative, "steps": STEPS}
        return execute("Guidance_DiscoverHSpace", samples=2, **{**options, **given})

    return find


def test_the_direction_is_the_difference_of_mean_h_along_both_inversions(discover, pixels):
    from pack.nodes.host.hspace_record import content_of
    from pack.nodes.host.inversion import inversion_sigmas
    from pack.nodes.host.run_state import progress_function

    sets = images(3, seed=1), images(2, seed=2)
    (found,), sheet = discover(positive_images=sets[0], negative_images=sets[1])
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
    (found,), _ = discover(positive_images=same, negative_images=same)
    assert found.tensors["delta_h"].abs().max() == 0


def test_the_sheet_is_drawn_under_the_condition_of_the_inversion(discover, pixels):
    _, sheet = discover(positive_images=images(2), negative_images=images(2, seed=1))
    plain = run(pixels.model, pixels, random(*pixels.shape, seed=0)[None], steps=STEPS, positive=pixels.negative)
    middle = sheet[0, :, 64:96]
    assert (middle - (plain[0].movedim(0, -1) + 1).clamp(0, 2) / 2).abs().max() < 1e-4


def test_what_two_sets_need_is_said_in_words(discover):
    refused(lambda: discover(positive_images=images(1)), "input 'negative_images'", "only one is connected")
    refused(lambda: discover(negative_images=images(1)), "input 'positive_images'", "only one is connected")
    sizes = {"positive_images": images(1), "negative_images": images(1, size=40)}
    refused(lambda: discover(**sizes), "input 'negative_images'", "32 x 32 and 40 x 40")
