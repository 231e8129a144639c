"""Half precision on the CPU: weights and arithmetic in float16 or bfloat16, every feature against its own float32.

ERRORS is what was measured, |half - float32| / |float32| of a two-step run from sigma 1. A picture's noise level
multiplies the rounding of a network that predicts noise, so these errors belong to the model more than to the feature;
the second test holds each feature to what plain sampling loses.
"""

from functools import partial

import pytest
import torch
from conftest import run_node
from features import ALWAYS, FEATURES, direction, discovered, with_guides
from networks import Networks, seeded

pytestmark = pytest.mark.host
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
LEVELS, FLOW_LEVELS = torch.tensor([1.0, 0.4, 0.0]), torch.tensor([0.9, 0.5, 0.0])
PLAIN = "plain pixel model"
ERRORS = {  # float16, bfloat16
    "plain pixel model": (0.0046, 0.041),
    "plain latent model": (0.0052, 0.055),
    "plain flow model": (0.0004, 0.11),
    "plain host U-Net": (5.4e-05, 0.00047),
    "CFG Patch: APG": (0.0076, 0.06),
    "CFG Combiner": (0.0046, 0.041),
    "Text Guide at denoised": (0.0064, 0.027),
    "Text Guide through denoiser": (0.0086, 0.077),
    "Style Guide": (0.0022, 0.016),
    "Classifier Guide at noisy": (0.00067, 0.0076),
    "Classifier-Guided Sampler: ddim": (0.044, 0.4),
    "DDIM Sampler": (0.00085, 0.01),
    "DDIM Inversion": (0.00062, 0.0058),
    "HSpace Edit, symmetric": (0.0024, 0.03),
    "HSpace Edit, asymmetric": (0.0025, 0.032),
    "HSpace Inject": (0.0025, 0.034),
    "Stochastic Encode": (0.00061, 0.0068),
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

    def look(model, start, sigmas, extra_args, callback, disable):
        found.append(model(x, sigmas[0].expand(1), **extra_args))
        return start

    with torch.inference_mode():
        nothing = torch.zeros_like(x)
        guider.sample(nothing, nothing, comfy.samplers.KSAMPLER(look), torch.tensor(levels), disable_pbar=True, seed=1)
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


def push(networks, weight):
    """What a guide through the denoiser adds to a sample, per unit of its weight."""
    given = {"classifier": networks.classifier, "class_label": "star", "weight": weight, **ALWAYS}
    (guides,) = networks.execute("Guidance_ClassifierGuide", **given)
    networks.levels = torch.tensor([5.0, 0.0])
    options = {"gradient": "through denoiser", "unit": "lambda", "cap": 0.0, "views": 1}
    guided, plain = (with_guides(networks, guides, strength=strength, **options) for strength in (1.0, 0.0))
    return (guided - plain) / weight


@pytest.mark.parametrize(
    "dtype, weight",
    [
        ("float16", 2.0**-13),
        ("float16", 2.0**23),
        ("bfloat16", 2.0**-13),
        ("bfloat16", 2.0**23),
    ],
)
def test_a_gradient_through_the_model_does_not_depend_on_its_size(networks, dtype, weight):
    """Pulling back is linear; powers of two are not even rounded."""
    expected = push(networks(TYPES[dtype]), 1.0)
    found = push(networks(TYPES[dtype]), weight)
    assert off(found, expected) < 0.02


# --- whose direction it is


@pytest.mark.parametrize("dtype", TYPES)
def test_a_direction_fits_its_model_in_whatever_type_that_is_loaded(networks, dtype):
    hspace = discovered(networks(torch.float32), "hspace")
    own = networks(TYPES[dtype])
    own.execute("Guidance_HSpaceEdit", model=own.load("hspace"), hspace=hspace)
