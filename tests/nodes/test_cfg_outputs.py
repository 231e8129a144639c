"""Methods that act on what the network itself predicts, on every parametrisation of the host."""

import pytest
import torch
from cfg_sampling import class_models, combiner, condition, guided, ksampler, patch, start, unclamped
from hosts import hosts_own

from pack.guidance.cfg import Branch, Mix, combine
from pack.guidance.cfg_branches import MagnitudeAware
from pack.guidance.cfg_result import Rescale

pytestmark = pytest.mark.host
PHI, SCALE, ALPHA = 0.7, 4.0, 3.0
KINDS = {
    "EPS": "ModelSamplingDiscrete",
    "V_PREDICTION": "ModelSamplingDiscrete",
    "V_PREDICTION_DDPM": "ModelSamplingDiscrete",
    "EDM": "ModelSamplingContinuousEDM",
    "X0": "ModelSamplingDiscrete",
    "CONST": "ModelSamplingDiscreteFlow",
    "COSMOS_RFLOW": "ModelSamplingCosmosRFlow",
    "IMG_TO_IMG_FLOW": "ModelSamplingDiscreteFlow",
}


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


def sampling_of(kind, data=1.0):
    """The host's parametrisation of that name, on its usual schedule."""
    schedule, prediction = (hosts_own("comfy.model_sampling", name) for name in (KINDS[kind], kind))
    sampling = type("Sampling", (schedule, prediction), {})()
    sampling.sigma_data = data
    return sampling


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def each(value, of):
    """A number of each picture, as it is multiplied."""
    return of(value.flatten(1))[:, None, None, None]


def rescaled(cond, uncond):
    """Lin et al. 2023, eq. 15 and 16, of the network's output."""
    guided = uncond + SCALE * (cond - uncond)
    return guided * (PHI * each(cond, lambda v: v.std(1)) / each(guided, lambda v: v.std(1)) + 1 - PHI)


def weakened(cond, uncond):
    """MAMBO-G, of the network's output."""
    ratio = each(cond - uncond, lambda v: v.norm(dim=1)) / each(uncond, lambda v: v.norm(dim=1))
    return uncond + (1 + (SCALE - 1) * torch.exp(-ALPHA * ratio)) * (cond - uncond)


METHODS = {
    "rescale": (Rescale(PHI), rescaled, {"phi": PHI}),
    "magnitude-aware (MAMBO-G)": (MagnitudeAware(ALPHA), weakened, {"alpha": ALPHA}),
}


@pytest.mark.parametrize("data", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_its_formula_on_the_networks_output(comfy, name, kind, data):
    method, formula, _ = METHODS[name]
    sampling = sampling_of(kind, data)
    x, cond, uncond = (drawn(3, 2, 4, 4, seed=seed) for seed in range(3))
    sigma = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)

    def denoised(output):
        return sampling.calculate_denoised(sigma, output, x)

    slope = sampling.calculate_denoised(sigma, 0 * x[:, :1, :1, :1], 1 + 0 * x[:, :1, :1, :1]).expand(3, 1, 1, 1)
    base = denoised(uncond)
    mix = Mix(x, slope[:, 0, 0, 0], base, (Branch(denoised(cond), base, SCALE),))
    expected = denoised(formula(cond, uncond))
    torch.testing.assert_close(combine(mix, [method], {}), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("data", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_slope_is_read_off_the_hosts_own_formula(comfy, kind, data):
    from pack.nodes.host.cfg.run import slope_of

    levels = torch.tensor([0.1, 0.5, 0.9])
    for sigma in (levels, levels[:1]):
        known = {
            "EPS": torch.ones_like(sigma),
            "V_PREDICTION": data**2 / (data**2 + sigma**2),
            "V_PREDICTION_DDPM": 1 / (1 + sigma**2).sqrt(),
            "EDM": data**2 / (data**2 + sigma**2),
            "X0": torch.zeros_like(sigma),
            "CONST": torch.ones_like(sigma),
            "COSMOS_RFLOW": 1 / (1 + sigma),
            "IMG_TO_IMG_FLOW": torch.zeros_like(sigma),
        }
        torch.testing.assert_close(slope_of(sampling_of(kind, data), sigma), known[kind], rtol=1e-6, atol=0)


@pytest.mark.parametrize("node", ["CFG Patch", "CFG Combiner"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "IMG_TO_IMG_FLOW"])  # that one draws nothing
@pytest.mark.parametrize("name", METHODS)
def test_a_step_on_the_host_guides_what_the_network_said(execute, models, conds, name, kind, node):
    """One step to the picture: it is the formula of the two outputs that the network gave."""
    from comfy.patcher_extension import WrappersMP

    _, formula, settings = METHODS[name]
    sampling, level, said = sampling_of(kind), 0.7, {}
    model = unclamped(models["eps"])
    model.add_object_patch("model_sampling", sampling)

    def network(executor, x, timesteps, *args, **kwargs):
        sides = kwargs["transformer_options"]["cond_or_uncond"]
        out = [
            drawn(*part.shape, seed=10 + side).float() for part, side in zip(x.chunk(len(sides)), sides, strict=True)
        ]
        said.update(zip(sides, out, strict=True))
        return torch.cat(out)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", network)
    seen, sigmas = [], torch.tensor([level, 0.0])
    model.set_model_sampler_post_cfg_function(lambda args: (seen.append(args["input"]), args["denoised"])[1])
    if node == "CFG Patch":
        patched = patch(execute, model, name, settings=settings)
        found = ksampler(patched, conds["star"], conds[""], SCALE, noise=start(2), sigmas=sigmas)
    else:
        conditions = [condition(execute, conds["star"], SCALE)]
        found = guided(combiner(execute, model, conditions, conds[""], name, settings), noise=start(2), sigmas=sigmas)
    sigma = torch.full((2,), level).double()
    expected = sampling.calculate_denoised(sigma, formula(said[0].double(), said[1].double()), seen[0].double())
    torch.testing.assert_close(found.double(), expected, rtol=5e-6, atol=5e-6)
