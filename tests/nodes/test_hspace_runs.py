"""h-space edits over whole runs: chains, samplers, noise levels that rise, step caches."""

import inspect

import pytest
import torch
from hspace_edits import ALWAYS, block
from hspace_scenes import cached, off, random, refused, run

from pack.guidance.samplers import CHURNING, SAMPLERS

pytestmark = pytest.mark.host


def part(model, scene, noise, latent=None, scheduler="normal", steps=20, sampler="euler", **options):
    """A KSampler (Advanced)."""
    import comfy.sample

    latent = torch.zeros_like(noise) if latent is None else latent
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise,
            steps,
            1.0,
            sampler,
            scheduler,
            scene.positive,
            scene.negative,
            latent,
            seed=1,
            disable_pbar=True,
            **options,
        )


@pytest.fixture
def trained(scenes, execute):
    """HSpace Edit with a delta block that was trained with 40 steps."""
    from pack.nodes.host.hspace.edit import network_edit

    scene = scenes["scenes_unet"]
    embedding = 4 * scene.model.model.diffusion_model.network.config.model_channels
    network, _ = block(True, scene.channels, embedding)
    edit = network_edit(network, name="d", trained_steps=40)
    return scene, execute("Guidance_HSpaceEdit", model=scene.model, hspace=[edit], strength=0.5, **ALWAYS)[0]


@pytest.mark.parametrize("scheduler, steps, cut", [("normal", 8, 4), ("karras", 8, 3), ("simple", 8, 5)])
def test_a_delta_block_in_a_chain_is_that_of_the_whole_run(trained, scheduler, steps, cut):
    scene, model = trained
    noise = random(1, *scene.shape, seed=5)
    whole = part(model, scene, noise, scheduler=scheduler, steps=steps)
    first = part(model, scene, noise, scheduler=scheduler, steps=steps, last_step=cut, force_full_denoise=False)
    last = part(model, scene, 0 * noise, first, scheduler=scheduler, steps=steps, start_step=cut, disable_noise=True)
    assert off(last, whole) < 1e-4
    assert off(whole, part(scene.model, scene, noise, scheduler=scheduler, steps=steps)) > 1e-3


def test_at_half_denoise_a_delta_block_counts_the_whole_schedule(trained):
    """4 steps at denoise .5 are the second half of 8."""
    scene, model = trained
    noise, latent = random(1, *scene.shape, seed=5), 0.3 * random(1, *scene.shape, seed=6)
    half = part(model, scene, noise, latent, steps=4, denoise=0.5)
    assert off(half, part(model, scene, noise, latent, steps=8, start_step=4)) < 1e-4


# What a sampler makes of an asymmetric edit


def host_samplings():
    """The host's parametrisations of one network by what they predict."""
    import comfy.model_sampling as ms

    def of(table, kind):
        return type("Sampling", (table, kind), {})()

    return {
        "eps": of(ms.ModelSamplingDiscrete, ms.EPS),
        "v": of(ms.ModelSamplingDiscrete, ms.V_PREDICTION),
        "flow": of(ms.ModelSamplingDiscreteFlow, ms.CONST),
    }


LEVELS = {"eps": [8.0, 4.0, 1.5, 0.5, 0.0], "flow": [0.95, 0.8, 0.6, 0.3, 0.0]}
OPTIONS = [(name, {}) for name in SAMPLERS if not name.endswith("_gpu")]
OPTIONS += [(name, {"s_churn": 2.0}) for name in CHURNING]
OPTIONS += [(name, {"eta": 0.4}) for name in ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde")]


def followed(sampler, form, options, levels, predict, edited, start):
    """x at the beginning of each step and at the end, in float64; every look at the edited picture sees `edited` more.

    The host's own loop, and the steps that HSpace Edit follows.
    """
    from types import SimpleNamespace

    import comfy.k_diffusion.sampling as k_diffusion

    from pack.nodes.host.hspace.steps import EditedSteps
    from pack.nodes.host.run import Course

    sampling = host_samplings()[form]
    patcher = SimpleNamespace(get_model_object=lambda name: sampling)
    function = getattr(k_diffusion, f"sample_{sampler}")
    chosen = SimpleNamespace(sampler_function=function, extra_options=options)
    steps, states = EditedSteps(Course(SimpleNamespace(model_patcher=patcher), chosen, levels)), []

    class Model:
        inner_model = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling), model_patcher=patcher)

        def __call__(self, x, sigma, **kwargs):
            steps.look(sigma)
            return predict(x, sigma[0]) + steps.added(torch.full_like(x, edited), ["row"])

    if "noise_sampler" in inspect.signature(function).parameters:
        options = {**options, "noise_sampler": lambda sigma, following: torch.ones_like(start)}
    torch.manual_seed(0)
    falling = torch.tensor(levels, dtype=torch.float64)
    last = function(Model(), start, falling, {}, lambda state: states.append(state["x"].clone()), True, **options)
    return [*states, last]


EACH = [(name, options, form) for name, options in OPTIONS for form in LEVELS if (name, form) != ("ddpm", "flow")]


@pytest.mark.parametrize("sampler, options, form", EACH, ids=str)
def test_an_asymmetric_step_of_every_sampler_moves_the_picture_by_the_difference(comfy, sampler, options, form):
    """P = 0 and P~ = 1: x' - x'_plain = keep (x - x_plain) + a', whatever noise is added."""
    levels, start = LEVELS[form], torch.linspace(-3, 3, 4, dtype=torch.float64)[None]

    def run(edited, start):
        return followed(sampler, form, options, levels, lambda x, sigma: torch.zeros_like(x), edited, start)

    plain, moved, nudged = run(0.0, start), run(1.0, start), run(0.0, start + 1)
    gap, kept = torch.zeros_like(start), [after - before for before, after in zip(plain, nudged, strict=True)]
    for index, following in enumerate(levels[1:]):
        keep = (kept[index + 1] / kept[index]).nan_to_num(0.0, 0.0, 0.0)
        gap = keep * gap + (1 - following if form == "flow" else 1.0)
        torch.testing.assert_close(moved[index + 1] - plain[index + 1], gap, rtol=1e-10, atol=1e-10)


SPREAD = 0.5  # of the data
CLOSE = {"euler": 1e-10, "lcm": 1e-10, "dpmpp_sde": 1e-10, "dpmpp_2m_sde": 1e-10, "dpmpp_2m_sde_heun": 1e-10}


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if not name.endswith("_gpu") and name != "ddpm"])
def test_a_run_moves_a_picture_as_far_on_a_flow_as_on_eps(comfy, sampler):
    """Normal data, P its denoiser and P~ = P + 1; x = X / (1 + S), s = S / (1 + S), the same noise."""
    levels = [*torch.logspace(1.5, -1.5, 24, dtype=torch.float64).tolist(), 0.0]
    start = torch.linspace(-30, 30, 4, dtype=torch.float64)[None]

    def normal(x, sigma, a):
        return a * SPREAD**2 / ((a * SPREAD) ** 2 + sigma**2) * x

    def ended(form, edited):
        flow = form == "flow"
        here = [level / (1 + level) if flow else level for level in levels]
        predict = (lambda x, s: normal(x, s, 1 - s)) if flow else (lambda x, s: normal(x, s, 1.0))
        return followed(sampler, form, {}, here, predict, edited, start / (1 + levels[0]) if flow else start)[-1]

    eps, flow = (ended(form, 1.0) - ended(form, 0.0) for form in ("eps", "flow"))
    assert (flow - eps).abs().max() < CLOSE.get(sampler, 0.05) * eps.abs().max()


@pytest.mark.parametrize("sampler", ["uni_pc", "dpmpp_3m_sde", "lms"])
def test_a_sampler_whose_step_is_not_known_is_refused_for_asymmetric_edits_alone(host, edit, sampler):
    refused(
        lambda: run(edit(host.model, host.direction), host, sampler=sampler), "sampler", "asymmetric to false", "ddim"
    )
    assert run(edit(host.model, host.direction, asymmetric=False), host, sampler=sampler).isfinite().all()


def test_inside_the_boost_of_asyrp_sampler_the_edit_is_as_strong_as_before_it(execute, scenes):
    """The step goes to sigma_down there: (1 - s' / s) / (1 - s_down / s) as much is added."""
    from pack.guidance.samplers import first_order
    from pack.nodes.host.hspace.steps import EditedSteps
    from pack.nodes.host.run import Course

    model = scenes["scenes_unet"].model
    for boost, eta in ((0.0, 1.0), (1.0, 0.0)):
        (sampler,) = execute("Guidance_AsyrpSampler", model=model, boost_percent=boost)
        guider = type("G", (), {"model_patcher": model})()
        steps = EditedSteps(Course(guider, sampler, [5.0, 2.0, 0.0]))
        assert steps.move() == first_order(5.0, 2.0, eta)


# Runs that are not what they seem


@pytest.mark.parametrize("asymmetric", [True, False])
def test_while_noise_rises_edits_rest_and_recorders_look(scenes, edit, asymmetric):
    from pack.nodes.host.hspace.record import recording
    from pack.nodes.host.inversion import inversion_sigmas, inverted

    scene = scenes["scenes_unet"]
    samples, sigmas, seen = 0.3 * random(1, *scene.shape, seed=6), inversion_sigmas(scene.model, 3, ""), []
    edited = edit(scene.model, 10 * scene.direction, asymmetric=asymmetric)
    plain = inverted(scene.model, samples, scene.negative, sigmas)
    watched = recording(edited, lambda h, place: seen.append(place.sigma))
    assert torch.equal(inverted(watched, samples, scene.negative, sigmas), plain)
    assert len(seen) == 2


def test_noise_levels_that_rise_again_are_refused_for_an_asymmetric_edit(host, edit):
    from hspace_scenes import predicted

    refused(lambda: predicted(edit(host.model, host.direction), host, levels=(5.0, 2.0, 3.0, 0.0)), "levels that fall")


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
@pytest.mark.parametrize("kind", ["unet", "scenes_unet"])
@pytest.mark.parametrize("order", ["behind", "before"])
def test_a_step_cache_works_with_an_edit(scenes, edit, asymmetric, name, kind, order):
    scene = scenes[kind]
    options = {"asymmetric": asymmetric}
    if order == "behind":
        model = cached(edit(scene.model, scene.direction, **options), name)
    else:
        model = edit(cached(scene.model, name), scene.direction, **options)
    found = run(model, scene, steps=6, cfg=2.0)
    assert found.isfinite().all()
    assert not torch.equal(found, run(cached(scene.model, name), scene, steps=6, cfg=2.0))


def test_calibration_in_front_of_easycache_is_refused_by_name(host, execute):
    latent = {"samples": random(1, *host.shape, seed=6)}
    given = {"latent": latent, "conditioning": host.negative, "steps": 2, "calibration": 0.3, **ALWAYS}
    (model,) = execute("Guidance_HSpaceInject", model=host.model, **given)
    refused(lambda: run(cached(model, "EasyCache"), host, steps=4), "EasyCache", "set calibration to 0")
    (model,) = execute("Guidance_HSpaceInject", model=cached(host.model, "EasyCache"), **given)
    assert run(model, host, steps=4).isfinite().all()
