"""Where a run is, without asking the device: by the sampler's reports, and by the model's own table."""

import gc
import weakref

import pytest
import torch
from cfg_sampling import class_conditions, class_models, start

pytestmark = pytest.mark.host
KEY = "looks"
STEPS = 4


def sampler_names():
    import comfy.samplers

    return [name for name in comfy.samplers.SAMPLER_NAMES if name != "ar_video"]  # for frames, one by one


@pytest.fixture(scope="module")
def eps_and_flow(pack_nodes):
    found = class_models(pack_nodes)
    return {"eps": found["eps"], "flow": found["flow"]}


@pytest.fixture
def star(execute, eps_and_flow):
    return class_conditions(execute, eps_and_flow)["star"]


def watched(model, looks):
    """The MODEL with a feature that notes of each look what clock and tensor say, and whether the tensor was asked."""
    from comfy.patcher_extension import WrappersMP

    from pack.nodes.host.run import Feature, attach, state_in

    class Asked(torch.Tensor):
        """A tensor of a look that notes whether its number is read."""

        reads = 0

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is torch.Tensor.__float__:
                cls.reads += 1
            return super().__torch_function__(func, types, args, kwargs or {})

    def note(executor, x, timestep, *args, **kwargs):
        course = state_in(executor.class_obj.model_options, KEY)
        before = Asked.reads
        level = course.level(timestep.as_subclass(Asked))
        looks.append((level, float(timestep[0]), Asked.reads - before))
        return executor(x, timestep, *args, **kwargs)

    feature = Feature(KEY, lambda course, parts: course, {WrappersMP.PREDICT_NOISE: note})
    return attach(model, feature, object())


def sampled(model, positive, sampler, sigmas=None):
    import comfy.sample

    noise = start(1)
    options = {"seed": 1, "disable_pbar": True, "sigmas": sigmas}
    with torch.inference_mode():
        empty = torch.zeros_like(noise)
        return comfy.sample.sample(model, noise, STEPS, 1.0, sampler, "normal", positive, positive, empty, **options)


@pytest.mark.parametrize("kind", ["eps", "flow"])
@pytest.mark.parametrize("sampler", ["euler", "ddim", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "lcm"])
def test_under_samplers_of_one_look_a_step_the_first_look_alone_is_read(eps_and_flow, star, kind, sampler):
    looks = []
    sampled(watched(eps_and_flow[kind], looks), star, sampler)
    assert len(looks) == STEPS and all(told == true for told, true, _ in looks)
    shifted = kind == "flow" and sampler == "dpmpp_2m_sde"  # it begins a flow just below 1
    assert [reads for _, _, reads in looks] == [1] * STEPS if shifted else [1] + [0] * (STEPS - 1)


def test_under_every_sampler_the_level_is_that_of_the_look(eps_and_flow, star):
    for sampler in sampler_names():
        looks = []
        sampled(watched(eps_and_flow["eps"], looks), star, sampler)
        assert looks and all(told == true for told, true, _ in looks), (sampler, looks)


def test_levels_that_another_node_changes_are_read(eps_and_flow, star):
    from comfy.patcher_extension import WrappersMP

    def halved(executor, guider, sigmas, *args, **kwargs):
        return executor(guider, sigmas / 2, *args, **kwargs)

    looks = []
    model = watched(eps_and_flow["eps"], looks)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "another", halved)
    sampled(model, star, "euler")
    assert len(looks) == STEPS and all(told == true and reads for told, true, reads in looks)


def test_the_hosts_progress_is_still_called(eps_and_flow, star):
    import comfy.samplers

    steps = []
    guider = comfy.samplers.CFGGuider(watched(eps_and_flow["eps"], []))
    guider.set_conds(star, star)
    sigmas = torch.tensor([5.0, 2.0, 1.0, 0.0])
    arguments = (comfy.samplers.sampler_object("euler"), sigmas)
    with torch.inference_mode():
        noise = start(1)
        guider.sample(
            noise, torch.zeros_like(noise), *arguments, callback=lambda i, *rest: steps.append(i), disable_pbar=True
        )
    assert steps == [0, 1, 2]


def samplings():
    """The host's table of 1000 steps, one of 250 that percents don't reach through, and the pack's own of 4000."""
    import comfy.model_sampling as host

    from pack.nodes.host.pixel_model import TrainedChain

    own, short = TrainedChain(), type("Short", (host.ModelSamplingDiscrete, host.EPS), {})()
    own._register_schedule(given_betas=torch.linspace(2.5e-5, 0.005, 4000))
    short._register_schedule(given_betas=torch.linspace(1e-3, 0.05, 250))
    return {"usual": type("Usual", (host.ModelSamplingDiscrete, host.EPS), {})(), "short": short, "own": own}


@pytest.mark.parametrize("name", ["usual", "short", "own"])
def test_progress_read_off_a_table_is_the_inverse_of_percent_to_sigma(comfy, name):
    from pack.nodes.host.model import progress_function

    sampling = samplings()[name]
    progress = progress_function(sampling)
    percents = [0.02 + 0.96 * k / 40 for k in range(41)]
    for percent in percents:
        sigma = sampling.percent_to_sigma(percent)
        if sigma < float(sampling.sigma_max) * (1 - 1e-6):  # percents that the table doesn't reach are its last level
            assert abs(progress(sigma) - percent) < 1e-6
    assert progress(float(sampling.sigma_max)) == progress(1e9) == 0.0
    assert progress(0.0) == 1.0 and progress(float(sampling.sigma_min) / 2) > 0.999


def test_nothing_of_a_run_is_left_behind_it(execute, eps_and_flow, star):
    """States of CFG and of h-space, what they remember, and the tensors of looks."""
    import comfy.samplers
    from cfg_sampling import combiner, condition, patch
    from comfy.patcher_extension import WrappersMP
    from hspace_edits import apply_edit

    kept = []

    def look(executor, x, timestep, *args, **kwargs):
        options = executor.class_obj.model_options["transformer_options"]
        states = [value for key, value in options.items() if key.startswith("diffusion_guidance")]
        courses = [state.course for state in states]
        kept.extend(weakref.ref(part) for part in (*states, *courses, x, timestep))
        return executor(x, timestep, *args, **kwargs)

    model = patch(execute, eps_and_flow["eps"], "APG")
    config = model.model.diffusion_model.network.config
    channels = config.model_channels * config.channel_mult[-1]
    model = apply_edit(execute, model, torch.ones(1, channels, 1, 1))
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "look", look)
    sampled(model, star, "euler")
    guider = combiner(execute, model, [condition(execute, star, 3.0)], star, "history (HiGS)")
    with torch.inference_mode():
        noise, sigmas = start(1), torch.tensor([5.0, 2.0, 0.0])
        sampler = comfy.samplers.sampler_object("euler")
        guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=1)
    gc.collect()
    assert kept and not [ref() for ref in kept if ref() is not None]
