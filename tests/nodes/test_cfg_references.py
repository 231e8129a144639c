"""References of CFG Condition that need no negative: another time, a random condition, a second model."""

import pytest
import torch
from cfg_sampling import Counter, class_models, combiner, condition, guided, ksampler, patch, start
from hosts import hosts_own

pytestmark = pytest.mark.host
LEVEL = torch.tensor([5.0, 0.0])


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


def samplings():
    """The host's noise schedules and parametrisations, by name."""
    import comfy.model_sampling as host

    kinds = {
        "eps": (host.EPS, host.ModelSamplingDiscrete),
        "v": (host.V_PREDICTION, host.ModelSamplingDiscrete),
        "edm": (host.EDM, host.ModelSamplingContinuousEDM),
        "x0": (host.X0, host.ModelSamplingDiscrete),
        "cascade": (host.EPS, host.StableCascadeSampling),
        "flow": (host.CONST, host.ModelSamplingDiscreteFlow),
        "flux": (host.CONST, host.ModelSamplingFlux),
        "cosmos": (host.COSMOS_RFLOW, host.ModelSamplingCosmosRFlow),
    }
    return {name: type(name, bases, {})() for name, bases in kinds.items()}


@pytest.mark.parametrize("name", ["eps", "v", "edm", "x0", "cascade", "flow", "flux", "cosmos"])
@pytest.mark.parametrize("n", [1.0, -2.0])
def test_only_the_time_is_another_one(comfy, name, n):
    """D of a network that sees x as it is and is told another time, whatever is predicted."""
    from pack.nodes.host.cfg.references import other_sigma, told_another_time

    sampling = samplings()[name]
    sigma = sampling.percent_to_sigma(0.5) * torch.ones(2)
    told = other_sigma(sampling, sigma, n)
    assert ((told > sigma) == (n > 0)).all()
    time, first = (sampling.timestep(level).float() for level in (sigma, sampling.sigma_min))
    wanted = time + 0.1 * n * (time - first)
    whole = not sampling.timestep(sigma).is_floating_point()
    torch.testing.assert_close(
        sampling.timestep(told).float(),
        wanted,
        atol=1.0 if whole else 1e-5,
        rtol=1e-5,
    )
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * (1 + sigma[0])

    def network(x, time):
        return torch.sin(x) + time.float().view(-1, 1, 1, 1).sin()

    def model(x, sigma):
        return sampling.calculate_denoised(
            sigma, network(sampling.calculate_input(sigma, x), sampling.timestep(sigma)), x
        )

    wanted = sampling.calculate_denoised(sigma, network(sampling.calculate_input(sigma, x), sampling.timestep(told)), x)
    found = told_another_time(model, sampling, x, sigma, told)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def sd3():
    """A MODEL of SD3's kind, two blocks deep, with random weights: it has no DIFFUSION_MODEL wrapper."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    torch.manual_seed(0)
    sizes = {"in_channels": 16, "depth": 2, "context_size": 64, "adm_in_channels": 32, "pos_embed_max_size": 8}
    shape = {"num_patches": 64, "context_embedder_config": None, "pos_embed_scaling_factor": None, "input_size": None}
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}}
    config = comfy.supported_models.SD3({**sizes, **shape, "context_embedder_config": embedder})
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.SD3(config, device=torch.device("cpu"))
    for value in (*model.diffusion_model.parameters(), *model.diffusion_model.buffers()):
        torch.nn.init.normal_(value, std=0.2)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@pytest.mark.parametrize("reference", ["other time", "random condition"])
def test_a_reference_acts_on_a_model_without_a_wrapper_around_its_network(execute, comfy, reference):
    model = sd3()
    text = [[torch.randn(1, 7, 64), {"pooled_output": torch.randn(1, 32)}]]
    noise, level = torch.randn(1, 16, 8, 8), torch.tensor([0.8, 0.5, 0.0])
    conditions = [condition(execute, text, 3.0, reference=reference)]
    ours = guided(combiner(execute, model, conditions), noise=noise, sigmas=level)
    plain = ksampler(model, text, text, 1.0, noise=noise, sigmas=level)
    assert torch.isfinite(ours).all()
    assert (ours - plain).abs().max() > 1e-3 * plain.abs().max()


def test_perturbed_self_is_refused_where_the_middle_has_no_attention(execute, comfy):
    text = [[torch.randn(1, 7, 64), {"pooled_output": torch.randn(1, 32)}]]
    guider = combiner(execute, sd3(), [condition(execute, text, 3.0, reference="perturbed self")])
    with pytest.raises(ValueError, match="perturbed self.*OpenAISignatureMMDITWrapper"):
        guided(guider, noise=torch.randn(1, 16, 8, 8), sigmas=torch.tensor([0.8, 0.0]))


def test_a_random_condition_is_drawn_anew_for_every_step_and_seed(execute, models, conds):
    """Its classes, as the network saw them, over twelve steps and two seeds."""

    def classes(seed):
        import comfy.samplers

        seen = []
        model = models["eps"].clone()
        model.set_model_unet_function_wrapper(
            lambda apply, a: (seen.append(a["c"]["y"].tolist()), apply(a["input"], a["timestep"], **a["c"]))[1]
        )
        guider = combiner(execute, model, [condition(execute, conds["star"], 3.0, reference="random condition")])
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 12)
        euler = comfy.samplers.sampler_object("euler")
        with torch.inference_mode():
            guider.sample(start(2), torch.zeros(2, 3, 32, 32), euler, sigmas, disable_pbar=True, seed=seed)
        return seen

    first, again, other = classes(1), classes(1), classes(2)
    star = models["eps"].model.facts.class_names.index("star")
    assert first == again
    assert first != other
    drawn = [[label for label in step if label != star] for step in first]
    assert all(len(step) == 2 and step[0] == step[1] for step in drawn)  # each picture as if alone
    assert len({step[0] for step in drawn}) > 3


@pytest.mark.parametrize("what", ["no class", "nothing"])
def test_a_conditioning_that_says_nothing_has_no_random_one(execute, models, conds, what):
    conditioning = conds[""] if what == "no class" else [[torch.zeros(1, 77, 768), {}]]
    with pytest.raises(ValueError, match="random condition.*says nothing"):
        guided(combiner(execute, models["eps"], [condition(execute, conditioning, 3.0, reference="random condition")]))


def second_model(execute):
    return execute("Guidance_LoadModel", model_name="scenes_unet.safetensors")[0]


def autoguided(execute, models, conds, second, **options):
    conditions = [condition(execute, conds["star"], 3.0, reference="model", model=second)]
    return guided(combiner(execute, models["eps"], conditions, **options), sigmas=LEVEL)


def test_an_edit_of_h_on_the_second_model_acts(execute, models, conds):
    sides = {"positive": conds["star"], "negative": conds["red"]}
    (direction, *_) = execute(
        "Guidance_DiscoverHSpace", model=models["eps"], method="contrast", samples=2, steps=2, size=32, **sides
    )
    edited = execute("Guidance_HSpaceEdit", model=second_model(execute), hspace=direction, strength=10.0)[0]
    plain = autoguided(execute, models, conds, second_model(execute))
    assert (autoguided(execute, models, conds, edited) - plain).abs().max() > 0.01


def test_guides_and_patches_on_the_second_model_are_refused(execute, models, conds):
    guide = execute("Guidance_PaletteGuide", image=torch.rand(1, 32, 32, 3), start_percent=0.0, end_percent=1.0)[0]
    steered = execute("Guidance_ApplyGuides", model=second_model(execute), guides=guide)[0]
    with pytest.raises(ValueError, match="Apply Guides can't act on a second model"):
        autoguided(execute, models, conds, steered)
    for patched in (patch(execute, second_model(execute), "APG"), patch(execute, second_model(execute), scale=3.0)):
        with pytest.raises(ValueError, match="CFG Patch can't act on a second model"):
            autoguided(execute, models, conds, patched)


@pytest.mark.parametrize("kind", ["post_cfg", "pre_cfg", "cfg", "calc_cond_batch"])
def test_other_nodes_cfg_functions_on_the_second_model_are_refused(execute, models, conds, kind):
    second = second_model(execute)
    getattr(second, f"set_model_sampler_{kind}_function")(lambda arguments: arguments["cond_denoised"])
    with pytest.raises(ValueError, match="the second model has a.*function.*could not act"):
        autoguided(execute, models, conds, second)


def test_other_nodes_wrappers_on_the_second_model_act(execute, models, conds):
    from comfy.patcher_extension import WrappersMP

    second = second_model(execute)
    second.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", lambda executor, *a, **k: 0.5 * executor(*a, **k))
    plain = autoguided(execute, models, conds, second_model(execute))
    assert (autoguided(execute, models, conds, second) - plain).abs().max() > 0.01


def times_told(execute, models, conds, seed):
    """Of the two predictions of each step in a run of 24: the time that the network was told, over the right one."""
    import comfy.samplers

    told = []
    model = models["eps"].clone()
    sampling = model.get_model_object("model_sampling")
    model.add_wrapper_with_key(
        "diffusion_model",
        "test",
        lambda executor, x, t, *a, **k: (told.append(float(t[0])), executor(x, t, *a, **k))[1],
    )
    guider = combiner(execute, model, [condition(execute, conds["star"], 3.0, reference="other time")])
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 24)
    with torch.inference_mode():
        euler = comfy.samplers.sampler_object("euler")
        guider.sample(start(2), torch.zeros(2, 3, 32, 32), euler, sigmas, disable_pbar=True, seed=seed)
    return [other / right - 1 for right, other in zip(told[::2], told[1::2], strict=True) if right > 100]


def test_the_other_time_is_drawn_for_every_step_and_seed_later_or_earlier(execute, models, conds):
    """t + .1 t n of a normal n: with a mean of 0 and a deviation of a tenth."""
    first, again, other = (times_told(execute, models, conds, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    shares = torch.tensor([*first, *other, *times_told(execute, models, conds, 3)])
    assert (shares > 0.02).sum() > 10 and (shares < -0.02).sum() > 10
    assert abs(float(shares.mean())) < 0.04 and 0.06 < float(shares.std()) < 0.13


@pytest.mark.parametrize("limited", [False, True])
def test_a_second_model_pushes_where_the_condition_says_something(execute, models, conds, limited):
    import node_helpers

    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1
    masked = node_helpers.conditioning_set_values(conds["red"], {"mask": left, "mask_strength": 1.0})
    weak = second_model(execute)
    weak.set_model_unet_function_wrapper(lambda apply, a: 0.5 * apply(a["input"], a["timestep"], **a["c"]))
    conditions = [condition(execute, conds["star"], 3.0)]
    one = guided(combiner(execute, models["eps"], conditions, conds[""]), sigmas=LEVEL)
    conditions += [condition(execute, masked, 2.0, reference="model", model=weak)]
    both = guided(combiner(execute, models["eps"], conditions, conds[""]), sigmas=LEVEL)
    assert torch.equal(one[..., 16:], both[..., 16:])
    assert (one - both).abs().max() > 0.01


def test_a_patch_on_the_negative_model_of_dual_model_guider_is_refused(execute, models, conds):
    kind = hosts_own("comfy_extras.nodes_custom_sampler", "Guider_DualModel")
    guider = kind(models["eps"], patch(execute, second_model(execute), "rescale"))
    guider.set_conds(conds["star"], conds[""])
    guider.set_cfg(4.5)
    with pytest.raises(ValueError, match="CFG Patch: the MODEL it was put into is sampled beside another"):
        guided(guider)


def test_the_second_model_is_still_called_once_a_step(execute, models, conds):
    counter = Counter(second_model(execute))
    autoguided(execute, models, conds, counter.model)
    assert counter.calls == 1
