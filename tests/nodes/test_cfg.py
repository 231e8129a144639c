"""CFG Combiner and CFG Patch in the host, in process: the host's bits, counted calls, hooks, refusals in words."""

import math

import pytest
import torch

pytestmark = pytest.mark.host
KINDS = ["eps", "v", "flow"]
METHODS = {
    "constant": {},
    "rescale": {"phi": 0.7},
    "dynamic threshold": {"percentile": 0.995, "limit": 0.0},
    "mimic threshold": {"mimic_scale": 3.0, "phi": 1.0},
    "APG": {"eta": 0.0, "cap": 0.06, "momentum": -0.5},
    "CFG++": {"strength": 0.6},
    "CFG-Zero*": {"strength": 1.0, "zero_init": 0.0},
    "tangential (TCFG)": {"strength": 1.0},
    "frequency (FDG)": {"low": 0.45, "high": 1.0},
    "perp-neg": {"strength": 1.0},
    "magnitude-aware (MAMBO-G)": {"alpha": 8.0},
    "history (HiGS)": {"strength": 0.5, "memory": 0.6},
    "adaptive skip": {"threshold": 0.9999},
}
NEUTRAL = {
    "rescale": {"phi": 0.0},
    "mimic threshold": {"mimic_scale": 3.0, "phi": 0.0},
    "APG": {"eta": 1.0, "cap": 100.0, "momentum": 0.0},
    "CFG-Zero*": {"strength": 0.0, "zero_init": 0.0},
    "tangential (TCFG)": {"strength": 0.0},
    "frequency (FDG)": {"low": 1.0, "high": 1.0},
    "perp-neg": {"strength": 0.0},
    "magnitude-aware (MAMBO-G)": {"alpha": 0.0},
    "history (HiGS)": {"strength": 0.0, "memory": 0.6},
    "adaptive skip": {"threshold": 1.0},
}


@pytest.fixture(scope="module")
def models(pack_nodes):
    """The shipped U-Net as an eps, a v and a flow model. What v it predicts means nothing, but bits are bits."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    node = pack_nodes["Guidance_LoadModel"]

    def load(name):
        entries = node.GET_SCHEMA().inputs
        given = {entry.id: entry.default for entry in entries if getattr(entry, "default", None) is not None}
        with torch.inference_mode():
            return node.PREPARE_CLASS_CLONE(None).execute(**{**given, "model_name": name}).args[0]

    eps = load("scenes_unet.safetensors")
    return {
        "eps": eps,
        "v": ModelSamplingDiscrete().patch(eps, "v_prediction", False)[0],
        "flow": load("scenes_flow.safetensors"),
    }


@pytest.fixture
def conds(execute, models):
    """CONDITIONING by class name, "" the empty one."""

    def of(label):
        return execute("Guidance_ClassConditioning", model=models["eps"], class_label=label)[0]

    return {label: of(label) for label in ("star", "red", "dotted", "")}


def patch(execute, model, name="constant", scale=0.0, settings=None, **window):
    chosen = {"method": name, **(METHODS[name] if settings is None else settings)}
    return execute("Guidance_CFGPatch", model=model, method=chosen, guidance_scale=scale, **window)[0]


def condition(execute, conditioning, scale, **options):
    return execute("Guidance_CFGCondition", conditioning=conditioning, guidance_scale=scale, **options)[0]


def combiner(execute, model, conditions, negative=None, name="constant", settings=None):
    chosen = {"method": name, **(METHODS[name] if settings is None else settings)}
    wired = {f"condition{k}": value for k, value in enumerate(conditions)}
    return execute("Guidance_CFGCombiner", model=model, conditions=wired, negative=negative, method=chosen)[0]


def start(batch, seed=0):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def unclamped(model):
    """Without the clamp of x0 that the loader puts behind CFG."""
    model = model.clone()
    model.model_options["sampler_post_cfg_function"] = []
    return model


def ksampler(model, positive, negative, cfg, batch=2, steps=4, sampler="euler", noise=None, sigmas=None):
    import comfy.sample

    noise = start(batch) if noise is None else noise
    latent = torch.zeros_like(noise)
    options = {"seed": 1, "disable_pbar": True, "sigmas": sigmas}
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, steps, cfg, sampler, "normal", positive, negative, latent, **options)


def guided(guider, batch=2, steps=4, sampler="euler", noise=None, sigmas=None):
    import comfy.samplers

    noise = start(batch) if noise is None else noise
    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps) if sigmas is None else sigmas
    with torch.inference_mode():
        return guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object(sampler), sigmas, disable_pbar=True, seed=1
        ).cpu()


class Counter:
    """Counts calls of a MODEL's network, and the pictures in them."""

    def __init__(self, model):
        self.model = model.clone()
        self.calls, self.pictures = 0, 0
        self.model.set_model_unet_function_wrapper(self)

    def __call__(self, apply, arguments):
        self.calls += 1
        self.pictures += len(arguments["input"])
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("cfg", [1.0, 4.5, 8.0])
def test_constant_cfg_has_the_hosts_bits(execute, models, conds, kind, batch, cfg):
    model, noise = models[kind], start(batch)
    host = ksampler(model, conds["star"], conds[""], cfg, noise=noise)
    combined = guided(combiner(execute, model, [condition(execute, conds["star"], cfg)], conds[""]), noise=noise)
    patched = ksampler(patch(execute, model, scale=cfg), conds["star"], conds[""], 3.0, noise=noise)
    assert torch.equal(host, combined)
    assert torch.equal(host, patched)


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("kind", KINDS)
def test_neutral_settings_have_the_hosts_bits(execute, models, conds, name, kind):
    model = models[kind]
    host = ksampler(model, conds["star"], conds[""], 4.5)
    patched = ksampler(patch(execute, model, name, settings=NEUTRAL[name]), conds["star"], conds[""], 4.5)
    conditions = [condition(execute, conds["star"], 4.5)]
    combined = guided(combiner(execute, model, conditions, conds[""], name, NEUTRAL[name]))
    assert torch.equal(host, patched)
    assert torch.equal(host, combined)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_patch_and_combiner_make_the_same_picture(execute, models, conds, kind, name):
    patched = ksampler(patch(execute, models[kind], name), conds["star"], conds[""], 4.5)
    combined = guided(combiner(execute, models[kind], [condition(execute, conds["star"], 4.5)], conds[""], name))
    assert torch.isfinite(patched).all()
    assert torch.equal(patched, combined)


@pytest.mark.parametrize("name", METHODS)
def test_each_image_of_a_batch_equals_itself_alone_after_a_step(execute, models, conds, name):
    noise = start(4)
    level = torch.tensor([0.5, 0.0])
    model = patch(execute, models["eps"], name)
    whole = ksampler(model, conds["star"], conds[""], 4.5, noise=noise, sigmas=level)
    for k in (0, 3):
        alone = ksampler(model, conds["star"], conds[""], 4.5, noise=noise[k : k + 1], sigmas=level)
        assert (whole[k : k + 1] - alone).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_works_at_cfg_1_without_a_negative(execute, models, conds, name):
    if name == "CFG++":  # sets the scale itself
        with pytest.raises(ValueError, match="negative"):
            combiner(execute, models["eps"], [condition(execute, conds["star"], 1.0)], name=name)
        return
    result = guided(combiner(execute, models["eps"], [condition(execute, conds["star"], 1.0)], name=name))
    plain = ksampler(models["eps"], conds["star"], conds[""], 1.0)
    changes_results = name in ("dynamic threshold", "history (HiGS)")
    assert changes_results or (result - plain).abs().max() < 1e-4


def test_basic_guider_with_a_patch_and_no_negative_samples(execute, models, conds):
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    guider = Guider_Basic(patch(execute, models["eps"], "APG"))
    guider.set_conds(conds["star"])
    assert torch.equal(guided(guider), ksampler(models["eps"], conds["star"], conds[""], 1.0))


@pytest.mark.parametrize("shape", [(2, 3, 3, 32, 32), (2, 3, 5, 32, 32)])
@pytest.mark.parametrize("name", METHODS)
def test_video_latents_are_guided_frame_by_frame_or_as_a_whole(execute, models, conds, name, shape):
    """A stand-in network takes five axes: it answers with a mix of its input and the class."""
    model = unclamped(models["eps"])

    def network(apply, arguments):
        classes = arguments["c"]["y"].float().view(-1, 1, 1, 1, 1)
        return 0.3 * arguments["input"] + 0.01 * classes

    model.set_model_unet_function_wrapper(network)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([2.0, 0.5, 0.0])
    result = guided(
        combiner(execute, model, [condition(execute, conds["star"], 3.0)], conds[""], name), noise=noise, sigmas=level
    )
    assert result.shape == noise.shape
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("node", ["patch", "combiner"])
def test_an_interval_over_the_middle_of_the_run_skips_the_negative(execute, models, conds, node):
    """Ten steps, guidance at six: 6 x 2 + 4 x 1 = 16 evaluations, 1.6 a step instead of 2."""
    counter = Counter(models["eps"])
    progress = [step / 10 for step in range(10)]
    window = {"start_percent": 0.2, "end_percent": 0.8}
    sigmas = torch.tensor(
        [float(models["eps"].model.model_sampling.percent_to_sigma(p + 1e-6)) for p in progress] + [0]
    )
    if node == "patch":
        model = patch(execute, counter.model, scale=4.5, **window)
        ksampler(model, conds["star"], conds[""], 2.0, batch=1, sigmas=sigmas)
    else:
        conditions = [condition(execute, conds["star"], 4.5, **window)]
        guided(combiner(execute, counter.model, conditions, conds[""]), batch=1, sigmas=sigmas)
    assert counter.pictures == 16
    assert counter.calls == 10


def test_three_conditions_and_the_negative_are_one_call(execute, models, conds):
    counter = Counter(models["eps"])
    conditions = [condition(execute, conds[name], 3.0) for name in ("star", "red", "dotted")]
    guided(combiner(execute, counter.model, conditions, conds[""]), batch=1, steps=4)
    assert counter.calls == 4
    assert counter.pictures == 16


def test_a_condition_outside_its_window_is_not_evaluated(execute, models, conds):
    counter = Counter(models["eps"])
    conditions = [condition(execute, conds["star"], 3.0), condition(execute, conds["red"], 3.0, end_percent=0.5)]
    seen = []
    counter.model.set_model_unet_function_wrapper(
        lambda apply, a: (seen.append(len(a["input"])), apply(a["input"], a["timestep"], **a["c"]))[1]
    )
    guided(combiner(execute, counter.model, conditions, conds[""]), batch=1, steps=8)
    assert set(seen) == {3, 2}
    assert seen == sorted(seen, reverse=True)


def test_a_negative_whose_weights_cancel_is_not_evaluated(execute, models, conds):
    """.5 (A - N) + .5 (B - N) + N is .5 A + .5 B."""
    counter = Counter(models["eps"])
    conditions = [condition(execute, conds["star"], 0.5), condition(execute, conds["red"], 0.5)]
    result = guided(combiner(execute, counter.model, conditions, conds[""]), batch=1)
    assert counter.pictures == 8
    averaged = [condition(execute, conds[name], 0.5, reference="none") for name in ("star", "red")]
    torch.testing.assert_close(result, guided(combiner(execute, models["eps"], averaged), batch=1), atol=1e-5, rtol=0)


def test_a_parent_chain_is_instruct_pix2pix(execute, models, conds):
    """D00 + wi (Di0 - D00) + wt (Dit - Di0), against the host's own two-scale guider."""
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    model = unclamped(models["eps"])  # the host shows other nodes a part of its result
    host = Guider_DualCFG(model)
    host.set_conds(conds["red"], conds["star"], conds[""])
    host.set_cfg(3.0, 1.5)
    parent = condition(execute, conds["star"], 1.5)
    child = condition(execute, conds["red"], 3.0, reference="parent", parent=parent)
    sigmas = torch.tensor([2.0, 0.7, 0.0])  # at sigma 150 the network's rounding alone is more than 1e-5
    ours = guided(combiner(execute, model, [parent, child], conds[""]), sigmas=sigmas)
    torch.testing.assert_close(ours, guided(host, sigmas=sigmas), atol=1e-5, rtol=0)


def test_perp_neg_is_the_hosts_for_one_picture(execute, models, conds):
    """For a batch of one the host's sums over the batch do no harm."""
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    host = Guider_PerpNeg(models["eps"])
    host.set_conds(conds["star"], conds["red"], conds[""])
    host.set_cfg(4.0, 0.7)
    conditions = [condition(execute, conds["star"], 4.0), condition(execute, conds["red"], -4.0 * 0.7)]
    ours = guided(combiner(execute, models["eps"], conditions, conds[""], "perp-neg"), batch=1)
    torch.testing.assert_close(ours, guided(host, batch=1), atol=2e-4, rtol=0)
    both = guided(combiner(execute, models["eps"], conditions, conds[""], "perp-neg"), batch=2)
    assert (guided(host, batch=2) - both).abs().max() > 1e-3  # the host's images depend on their batch mates


def test_a_second_model_of_the_same_weights_cancels(execute, models, conds, pack_nodes):
    """Autoguidance with the model itself: D_bad + w (D - D_bad) = D."""
    counter = Counter(execute("Guidance_LoadModel", model_name="scenes_unet.safetensors")[0])
    conditions = [condition(execute, conds["star"], 2.0, reference="model", model=counter.model)]
    ours = guided(combiner(execute, models["eps"], conditions))
    torch.testing.assert_close(ours, ksampler(models["eps"], conds["star"], conds[""], 1.0), atol=1e-4, rtol=0)
    assert counter.calls == 4


def test_a_weaker_second_model_is_used(execute, models, conds):
    """The reference is what the other model predicts, under its own patches."""
    weak = execute("Guidance_LoadModel", model_name="scenes_unet.safetensors")[0]
    weak.model_options["sampler_post_cfg_function"] = []
    weak.set_model_unet_function_wrapper(lambda apply, a: 0.5 * apply(a["input"], a["timestep"], **a["c"]))
    conditions = [condition(execute, conds["star"], 2.0, reference="model", model=weak)]
    ours = guided(combiner(execute, models["eps"], conditions))
    assert (ours - ksampler(models["eps"], conds["star"], conds[""], 1.0)).abs().max() > 0.01


def test_perturbed_attention_is_the_hosts_pag_on_its_unet(execute):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    from bench.guide_cost import unet

    torch.manual_seed(0)
    model = unet(channels=32)
    cond = [[torch.randn(1, 77, 768), {}]]
    noise = torch.randn(1, 4, 8, 8)
    level = torch.tensor([2.0, 1.0, 0.0])
    ours = guided(
        combiner(execute, model, [condition(execute, cond, 4.0, reference="perturbed self")]), noise=noise, sigmas=level
    )
    pag = PerturbedAttentionGuidance.execute(model, 3.0).args[0]
    import comfy.samplers

    host = comfy.samplers.CFGGuider(pag)
    host.set_conds(cond, cond)
    host.set_cfg(1.0)
    torch.testing.assert_close(ours, guided(host, noise=noise, sigmas=level), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reference", ["random condition", "other time"])
def test_references_without_a_negative_guide(execute, models, conds, reference):
    ours = guided(combiner(execute, models["eps"], [condition(execute, conds["star"], 3.0, reference=reference)]))
    assert torch.isfinite(ours).all()
    assert (ours - ksampler(models["eps"], conds["star"], conds[""], 1.0)).abs().max() > 0.01


def test_a_mask_keeps_guidance_inside(execute, models, conds):
    """Outside, one step gives the negative's prediction."""
    mask = torch.zeros(1, 32, 32)
    mask[:, :, :16] = 1
    level = torch.tensor([5.0, 0.0])
    masked = guided(
        combiner(execute, models["eps"], [condition(execute, conds["star"], 4.0, mask=mask)], conds[""]), sigmas=level
    )
    whole = guided(combiner(execute, models["eps"], [condition(execute, conds["star"], 4.0)], conds[""]), sigmas=level)
    negative = ksampler(models["eps"], conds[""], conds[""], 1.0, sigmas=level)
    torch.testing.assert_close(masked[..., :16], whole[..., :16], atol=1e-5, rtol=0)
    torch.testing.assert_close(masked[..., 16:], negative[..., 16:], atol=1e-5, rtol=0)


def test_cfg_plus_plus_is_the_papers_step_under_euler(execute, models, conds):
    """x0 = D_u + s (D_c - D_u), x' = x0 + sigma' eps_u, written out."""
    model = unclamped(models["eps"])
    level, after, s = 2.0, 1.2, 0.6
    x = start(2) * math.sqrt(1 + level**2)
    predictions = {}
    for name in ("star", ""):
        one = ksampler(model, conds[name], conds[""], 1.0, noise=x / level, sigmas=torch.tensor([level, 0.0]))
        predictions[name] = one
    x0 = predictions[""] + s * (predictions["star"] - predictions[""])
    expected = x0 + after * (x - predictions[""]) / level

    guider = combiner(execute, model, [condition(execute, conds["star"], 1.0)], conds[""], "CFG++")
    kept = []
    import comfy.samplers

    sigmas = torch.tensor([level, after, 0.0])
    with torch.inference_mode():
        guider.sample(
            x / level,
            torch.zeros_like(x),
            comfy.samplers.sampler_object("euler"),
            sigmas,
            callback=lambda step, denoised, x, total: kept.append(x.clone()),
            disable_pbar=True,
            seed=1,
        )
    torch.testing.assert_close(kept[1], expected, atol=2e-3, rtol=0)


def test_zero_init_leaves_a_flow_where_it_is(execute, models, conds):
    """Half of the steps still, the other half as if begun there; nothing is evaluated meanwhile."""
    counter = Counter(models["flow"])
    guider = combiner(
        execute,
        counter.model,
        [condition(execute, conds["star"], 3.0)],
        conds[""],
        "CFG-Zero*",
        {"strength": 0.0, "zero_init": 0.5},
    )
    guided(guider, batch=1, steps=4)
    assert counter.calls == 2


def test_guides_are_silent_while_zero_init_holds(execute, models, conds):
    guide = execute("Guidance_PaletteGuide", image=torch.rand(1, 32, 32, 3), start_percent=0.0, end_percent=1.0)[0]
    settings = {"strength": 0.0, "zero_init": 1.0}
    model = patch(execute, models["flow"], "CFG-Zero*", settings=settings)
    steered = execute("Guidance_ApplyGuides", model=model, guides=guide)[0]
    noise = start(1)
    still = ksampler(steered, conds["star"], conds[""], 3.0, noise=noise)
    assert torch.equal(still, ksampler(model, conds["star"], conds[""], 3.0, noise=noise))


def test_guides_add_to_the_combiner(execute, models, conds):
    guide = execute("Guidance_PaletteGuide", image=torch.zeros(1, 32, 32, 3), start_percent=0.0, end_percent=1.0)[0]
    steered = execute("Guidance_ApplyGuides", model=models["eps"], guides=guide)[0]
    conditions = [condition(execute, conds["star"], 3.0)]
    dark = guided(combiner(execute, steered, conditions, conds[""]), steps=8)
    plain = guided(combiner(execute, models["eps"], conditions, conds[""]), steps=8)
    assert dark.mean() < plain.mean() - 0.05


def test_methods_of_several_patches_act_in_the_published_order(execute, models, conds):
    first = patch(execute, patch(execute, models["eps"], "rescale"), "APG")
    second = patch(execute, patch(execute, models["eps"], "APG"), "rescale")
    a, b = (ksampler(model, conds["star"], conds[""], 4.5) for model in (first, second))
    assert torch.equal(a, b)


def test_momentum_starts_anew_in_every_run(execute, models, conds):
    model = patch(execute, models["eps"], "APG")
    first = ksampler(model, conds["star"], conds[""], 4.5)
    assert torch.equal(first, ksampler(model, conds["star"], conds[""], 4.5))


def test_adaptive_skip_saves_evaluations(execute, models, conds):
    counter = Counter(models["eps"])
    settings = {"threshold": 0.5}
    ksampler(patch(execute, counter.model, "adaptive skip", settings=settings), conds["star"], conds[""], 4.5, batch=1)
    assert counter.pictures == 2 + 3


# Who honours what: the table of the help page. True: the hook acts on the result.
def pre_cfg(model):
    model.set_model_sampler_pre_cfg_function(lambda a: [0.5 * a["conds_out"][0], *a["conds_out"][1:]])


def post_cfg(model):
    model.set_model_sampler_post_cfg_function(lambda a: 0.5 * a["denoised"])


def calc_cond_batch(model):
    import comfy.samplers

    def batch(a):
        out = comfy.samplers.calc_cond_batch(a["model"], a["conds"], a["input"], a["sigma"], a["model_options"])
        return [0.5 * part for part in out]

    model.set_model_sampler_calc_cond_batch_function(batch)


def predict_noise(model):
    from comfy.patcher_extension import WrappersMP

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", lambda executor, *a, **k: 0.5 * executor(*a, **k))


@pytest.mark.parametrize("hook", [pre_cfg, post_cfg, calc_cond_batch, predict_noise])
@pytest.mark.parametrize("node", ["patch", "combiner"])
@pytest.mark.parametrize("before", [True, False])
def test_every_chaining_hook_of_the_host_is_honoured(execute, models, conds, hook, node, before):
    """The picture is the one that KSampler with the same hook makes, whether the other node stands before or behind."""
    hooked = models["eps"].clone()
    hook(hooked)
    expected = ksampler(hooked, conds["star"], conds[""], 4.5)
    if node == "combiner":
        result = guided(combiner(execute, hooked, [condition(execute, conds["star"], 4.5)], conds[""]))
    elif before:
        result = ksampler(patch(execute, hooked, "perp-neg"), conds["star"], conds[""], 4.5)
    else:
        patched = patch(execute, models["eps"], "perp-neg").clone()
        hook(patched)
        result = ksampler(patched, conds["star"], conds[""], 4.5)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("node", ["patch", "combiner"])
def test_a_taken_cfg_function_is_refused_with_the_name_of_its_node(execute, models, conds, node):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    (model,) = RescaleCFG().patch(models["eps"], 0.7)
    with pytest.raises(ValueError, match="RescaleCFG"):
        if node == "patch":
            ksampler(patch(execute, model, "APG"), conds["star"], conds[""], 4.5)
        else:
            guided(combiner(execute, model, [condition(execute, conds["star"], 4.5)], conds[""]))


def test_a_schedule_alone_works_with_a_taken_cfg_function(execute, models, conds):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    (model,) = RescaleCFG().patch(models["eps"], 0.7)
    scheduled = ksampler(patch(execute, model, scale=4.5), conds["star"], conds[""], 2.0)
    assert torch.equal(scheduled, ksampler(model, conds["star"], conds[""], 4.5))


@pytest.mark.parametrize("name", ["Guider_DualCFG", "Guider_PerpNeg"])
def test_guiders_with_their_own_formula_refuse_a_patch(execute, models, conds, name):
    from comfy_extras import nodes_custom_sampler, nodes_perpneg

    kind = getattr(nodes_custom_sampler, name, None) or getattr(nodes_perpneg, name)
    guider = kind(patch(execute, models["eps"], "APG"))
    guider.set_conds(conds["star"], conds["red"], conds[""])
    guider.set_cfg(3.0, 1.0)
    with pytest.raises(ValueError, match=f"{name}.*CFG Combiner"):
        guided(guider)


def test_dual_model_guider_takes_a_patch(execute, models, conds):
    from comfy_extras.nodes_custom_sampler import Guider_DualModel

    def made(model):
        guider = Guider_DualModel(model, models["eps"])
        guider.set_conds(conds["star"], conds[""])
        guider.set_cfg(4.5)
        return guided(guider)

    rescaled = made(patch(execute, models["eps"], "rescale"))
    torch.testing.assert_close(
        rescaled, ksampler(patch(execute, models["eps"], "rescale"), conds["star"], conds[""], 4.5), atol=1e-3, rtol=0
    )
    assert (rescaled - made(models["eps"])).abs().max() > 1e-3


REFUSALS = {
    "nan": ({"guidance_scale": float("nan")}, "guidance_scale.*finite"),
    "reversed": ({"start_percent": 0.8, "end_percent": 0.2}, "ends.*before it starts"),
    "curve": ({"curve": "power of love"}, "curve.*power of love"),
    "parent": ({"reference": "parent"}, "'parent'.*none is wired"),
    "model": ({"reference": "model"}, "'model'.*none is wired"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_condition_that_makes_no_sense_is_refused_in_one_sentence(execute, conds, case):
    changed, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message) as caught:
        execute("Guidance_CFGCondition", conditioning=conds["star"], **changed)
    assert "CFG Condition (Guidance_CFGCondition), input '" in str(caught.value)


def test_a_method_that_does_not_exist_is_refused(execute, models):
    """The host drops the value."""
    with pytest.raises(ValueError, match="'method': there is no such method.*APG"):
        execute("Guidance_CFGPatch", model=models["eps"], guidance_scale=0.0)


def test_a_negative_that_a_method_reads_is_evaluated_where_weights_cancel(execute, models, conds):
    """4 (A - N) - 3 (B - N) + N has no N left, but perp-neg looks at A - N and B - N."""

    def at(scale):
        conditions = [condition(execute, conds["star"], 4.0), condition(execute, conds["red"], scale)]
        return guided(combiner(execute, models["eps"], conditions, conds[""], "perp-neg"))

    below, there, above = at(-3.001), at(-3.0), at(-2.999)
    assert (there - above).abs().max() < 0.05
    assert (below - above).abs().max() < 0.1


def test_zero_init_waits_for_pure_noise(execute, models, conds):
    """A run that begins in the middle is not held: nothing changes there."""
    import comfy.samplers

    flow = models["flow"]
    sigmas = comfy.samplers.calculate_sigmas(flow.get_model_object("model_sampling"), "normal", 8)[4:]
    settings = {"strength": 0.0, "zero_init": 0.5}
    held = ksampler(patch(execute, flow, "CFG-Zero*", settings=settings), conds["star"], conds[""], 3.0, sigmas=sigmas)
    assert torch.equal(held, ksampler(flow, conds["star"], conds[""], 3.0, sigmas=sigmas))


def test_zero_init_and_samplers_that_read_the_negative_are_refused_together(execute, models, conds):
    settings = {"strength": 1.0, "zero_init": 0.5}
    model = patch(execute, models["flow"], "CFG-Zero*", settings=settings)
    with pytest.raises(ValueError, match="CFG Patch: at the steps of zero_init.*cfg_pp"):
        ksampler(model, conds["star"], conds[""], 3.0, sampler="euler_cfg_pp")


def test_an_empty_list_of_conditions_is_refused(execute, models):
    with pytest.raises(ValueError, match="'conditions': at least one condition"):
        combiner(execute, models["eps"], [])


def test_a_missing_negative_is_refused(execute, models, conds):
    with pytest.raises(ValueError, match="condition 1 is measured against the negative, and none is wired"):
        combiner(execute, models["eps"], [condition(execute, conds["star"], 3.0)])


def test_a_patch_with_a_scale_and_no_negative_is_refused(execute, models, conds):
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    guider = Guider_Basic(patch(execute, models["eps"], scale=4.0))
    guider.set_conds(conds["star"])
    with pytest.raises(ValueError, match="no negative"):
        guided(guider)


def test_the_same_method_twice_is_refused(execute, models):
    with pytest.raises(ValueError, match="rescale is set twice"):
        patch(execute, patch(execute, models["eps"], "rescale"), "rescale")


def test_dynamic_threshold_on_latents_and_zero_init_on_eps_are_refused(execute, models, conds, pack_nodes):
    latent = execute("Guidance_LoadModel", model_name="scenes_latent.safetensors")[0]
    noise = torch.zeros(1, 12, 16, 16)
    with pytest.raises(ValueError, match="mimic threshold"):
        guided(
            combiner(execute, latent, [condition(execute, conds["star"], 3.0)], conds[""], "dynamic threshold"),
            noise=noise,
        )
    settings = {"strength": 1.0, "zero_init": 0.1}
    with pytest.raises(ValueError, match="zero_init"):
        ksampler(patch(execute, models["eps"], "CFG-Zero*", settings=settings), conds["star"], conds[""], 3.0)


def test_perturbed_self_on_other_networks_is_refused(execute, models, conds):
    conditions = [condition(execute, conds["star"], 3.0, reference="perturbed self")]
    with pytest.raises(ValueError, match="perturbed self.*U-Nets"):
        guided(combiner(execute, models["eps"], conditions))
