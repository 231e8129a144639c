"""HSpace Inject: the content of a given picture turns h at each step, as in the published code."""

import math

import pytest
import torch
from hspace_scenes import KINDS, images, off, predicted, random, refused, run

pytestmark = pytest.mark.host
STEPS = 6


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def scene(scenes, kind):
    return scenes[kind]


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
    """X' = X + P^ - P - w (P~ - P); D' = D(X') + rho / (1 - rho) (X' - X). Of a flow (1 - sigma) of that is moved.

    P~ is read off the asymmetric step, which moves x0's part at the next level: of a flow 1 - sigma'.
    """
    flow, omega = kind == "scenes_flow", 0.3
    levels = (0.8, 0.5, 0.0) if flow else (5.0, 2.0, 0.0)
    sigma, rho = levels[0], levels[1] / levels[0]
    plain = predicted(scene.model, scene, levels=levels)
    stepped = predicted(inject(scene), scene, levels=levels)
    edited = plain + (stepped - plain) * (1 - rho) / (1 - levels[1] if flow else 1)
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
    from pack.nodes.host.hspace.edit import Place
    from pack.nodes.host.hspace.inject import Content
    from pack.nodes.host.hspace.rows import View

    pictures = torch.arange(2.0).view(2, 1, 1, 1)
    found = Content({1.0: pictures + 10, 8.0: pictures})
    views = [View(range(3), 3)] * 2
    rows = found(torch.zeros(6, 1, 1, 1), Place(3.0, 0.5, 10, views))
    assert rows.flatten().tolist() == [0, 1, 0, 0, 1, 0]
    rows = found(torch.zeros(6, 1, 1, 1), Place(2.0, 0.5, 10, views))
    assert rows.flatten().tolist() == [10, 11, 10, 10, 11, 10]


def test_the_content_is_that_of_the_model_without_its_edits(host, inject, execute):
    from pack.nodes.host.hspace.edit import direction_edit
    from pack.nodes.host.hspace.run import applications

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
