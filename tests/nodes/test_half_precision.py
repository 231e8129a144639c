"""Half precision on the CPU: weights and arithmetic in float16 or bfloat16, every feature against its own float32.

ERRORS is what was measured, |half - float32| / |float32| of a two-step run from sigma 1. A picture's noise level
multiplies the rounding of a network that predicts noise, so these errors belong to the model more than to the feature;
the second test holds each feature to what plain sampling loses.
"""

from functools import partial

import pytest
import torch
from conftest import run_node
from features import ALWAYS, FEATURES, direction, discovered
from networks import Networks, seeded

pytestmark = pytest.mark.host
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
LEVELS, FLOW_LEVELS = torch.tensor([1.0, 0.4, 0.0]), torch.tensor([0.9, 0.5, 0.0])
PLAIN = "plain pixel model"
ERRORS = {  # float16, bfloat16
    "plain pixel model": (0.0095, 0.14),
    "plain latent model": (0.014, 0.1),
    "plain flow model": (0.00049, 0.071),
    "plain host U-Net": (5.4e-05, 0.00047),
    "CFG Patch: APG": (0.01, 0.12),
    "CFG Combiner": (0.0095, 0.14),
    "Text Guide at denoised": (0.0027, 0.03),
    "Text Guide through denoiser": (0.017, 0.084),
    "Style Guide": (0.0052, 0.07),
    "Classifier Guide at noisy": (0.00058, 0.085),
    "Classifier-Guided Sampler: ddim": (0.057, 0.55),
    "DDIM Sampler": (0.0027, 0.037),
    "DDIM Inversion": (0.00057, 0.0056),
    "HSpace Edit, symmetric": (0.0035, 0.042),
    "HSpace Edit, asymmetric": (0.0031, 0.037),
    "HSpace Inject": (0.003, 0.046),
    "Stochastic Encode": (0.00062, 0.0059),
    "Karlo with CFG": (0.0034, 0.027),
    "Karlo's super-resolution": (0.0009, 0.0076),
    "IF, stage I with CFG": (0.0062, 0.045),
    "IF, stage II with CFG": (0.0062, 0.05),
    "latent diffusion with CFG": (0.002, 0.018),
    "latent diffusion without classes": (0.00081, 0.0057),
}
OWN_MODEL = ("plain latent model", "plain flow model", "plain host U-Net")
FROM_PURE_NOISE = ("Classifier-Guided Sampler: ddim",)  # its own schedule: sigma 157


@pytest.fixture(scope="module")
def loaded(pack_nodes):
    """Networks by type."""
    types = [torch.float32, *TYPES.values()]
    return {dtype: Networks(partial(run_node, pack_nodes), levels=LEVELS) for dtype in types}


@pytest.fixture
def networks(loaded, monkeypatch):
    """Networks whose weights have a type and are computed with in it; the host is told to choose it."""
    import comfy.model_management as mm

    def of(dtype):
        monkeypatch.setattr(mm, "unet_dtype", lambda *args, **kwargs: dtype)
        monkeypatch.setattr(mm, "unet_manual_cast", lambda *args, **kwargs: None)
        return loaded[dtype]

    return of


@pytest.fixture(scope="module")
def known():
    return {}


@pytest.fixture
def error(networks, known):
    """Of a feature in a type; each is computed once."""

    def result(name, dtype):
        if (name, dtype) not in known:
            own = networks(dtype)
            own.levels = FLOW_LEVELS if "flow" in name else LEVELS
            known[name, dtype] = FEATURES[name](own).float()
        return known[name, dtype]

    def of(name, dtype):
        half, full = result(name, dtype), result(name, torch.float32)
        assert torch.isfinite(half).all()
        return off(half, full)

    return of


def off(half, full):
    return float((half - full).norm() / full.norm())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ERRORS)
def test_the_error_is_the_recorded_one(error, name, dtype):
    assert error(name, TYPES[dtype]) < 3 * ERRORS[name][list(TYPES).index(dtype)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", [name for name in ERRORS if name not in (PLAIN, *OWN_MODEL, *FROM_PURE_NOISE)])
def test_a_feature_loses_little_more_than_plain_sampling(error, name, dtype):
    assert error(name, TYPES[dtype]) < 3 * error(PLAIN, TYPES[dtype])


# --- h-space edits between two close levels


def predicted(networks, asymmetric, levels):
    """What an edited model predicts at the first level."""
    import comfy.samplers

    given = {"model": networks.load("hspace"), "hspace": direction(networks, 128), "asymmetric": asymmetric}
    guider = comfy.samplers.CFGGuider(networks.execute("Guidance_HSpaceEdit", **given, **ALWAYS)[0])
    guider.inner_set_conds({"positive": networks.label("star")})
    x, found = levels[0] * seeded(1, 3, 32, 32, seed=1), []

    def sample_euler(model, start, sigmas, extra_args, callback, disable):  # an edit knows a sampler by its name
        found.append(model(x, sigmas[0].expand(1), **extra_args))
        return start

    with torch.inference_mode():
        nothing = torch.zeros_like(x)
        guider.sample(
            nothing, nothing, comfy.samplers.KSAMPLER(sample_euler), torch.tensor(levels), disable_pbar=True, seed=1
        )
    return found[0]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("following", [2.0, 4.9])
def test_an_asymmetric_edit_is_as_exact_as_a_symmetric_one(networks, dtype, following):
    levels = (5.0, following, 0.0)

    def lost(asymmetric):
        half, full = (predicted(networks(kind), asymmetric, levels) for kind in (TYPES[dtype], torch.float32))
        return off(half, full)

    assert lost(True) < 3 * lost(False)


# --- the gradient through a half-precision model


def pull_back(networks):
    """The vector-Jacobian product of the pixel model's prediction at sigma 1."""
    import comfy.samplers

    from pack.nodes.host.guides.through import with_graph

    guider = comfy.samplers.CFGGuider(networks.load("unet"))
    guider.inner_set_conds({"positive": networks.label("star")})
    found = []

    def look(model, x, sigmas, extra_args, callback, disable):
        def execute(at, options):
            return model(at, sigmas[0].expand(1), **{**extra_args, "model_options": options})

        found.append(with_graph(guider, execute, x, extra_args["model_options"])[1])
        return x

    with torch.inference_mode():
        nothing, noise = torch.zeros(1, 3, 32, 32), seeded(1, 3, 32, 32, seed=1)
        guider.sample(noise, nothing, comfy.samplers.KSAMPLER(look), LEVELS[[0, 2]], disable_pbar=True, seed=1)
    return found[0]


def test_a_gradient_through_a_float16_model_does_not_depend_on_its_size(networks):
    """Pulling back is linear. 2^-24 is the type's least number, and 2^16 beyond its largest."""
    pulled, grad = pull_back(networks(torch.float16)), seeded(1, 3, 32, 32, seed=2)
    expected = pulled(grad)
    assert expected.norm() > 0
    for size in (2.0**-30, 2.0**23):  # powers of two are not even rounded
        assert torch.equal(pulled(size * grad) / size, expected)


# --- whose direction it is


@pytest.mark.parametrize("dtype", TYPES)
def test_a_direction_fits_its_model_in_whatever_type_that_is_loaded(networks, dtype):
    hspace = discovered(networks(torch.float32), "hspace")
    own = networks(TYPES[dtype])
    own.execute("Guidance_HSpaceEdit", model=own.load("hspace"), hspace=hspace)
