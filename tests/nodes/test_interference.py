"""What others rely on is as it was after the pack loads, runs, fails or is cancelled."""

import random

import numpy
import pytest
import torch
from guided_sampling import applied, sample, text_guide
from surroundings import host_contents, surroundings

pytestmark = pytest.mark.host


def generators():
    return torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()


LOADERS = {
    "Guidance_LoadModel": {"model_name": "scenes_unet.safetensors"},
    "Guidance_LoadClassifier": {"classifier_name": "scenes_classifier.safetensors"},
    "Guidance_LoadEncoder": {"encoder_name": "scenes_clip.safetensors"},
    "Guidance_LoadDiffusionAutoencoder": {"model_name": "scenes_diffae.safetensors"},
    "Guidance_LoadMatcher": {"matcher_name": "scenes_matcher.safetensors"},
}


@pytest.mark.parametrize("node_id", LOADERS)
def test_a_loader_uses_up_nobodys_random_numbers(execute, node_id):
    torch.manual_seed(3)
    before = generators()
    execute(node_id, **LOADERS[node_id])
    assert generators() == before


@pytest.fixture
def steered(execute, models, encoder):
    """A MODEL with a guide, after both it and the bare MODEL have run once."""
    model = models["scenes_unet"][0]
    guides = text_guide(execute, encoder)
    steered = applied(execute, model, guides)
    for warm in (model, steered):
        sample(execute, warm, steps=2, batch=1)
    return steered, guides[0]


def ends(steered, execute, how):
    """A run that ends so."""
    import comfy.model_management as mm

    model, guide = steered
    compare, errors = guide.compare, {"exception": RuntimeError("broke"), "cancel": mm.InterruptProcessingException()}

    def broken(*_):
        raise errors[how]

    if how in errors:
        object.__setattr__(guide, "compare", broken)
    try:
        sample(execute, model, steps=3, batch=1)
    except (RuntimeError, mm.InterruptProcessingException):
        assert how in errors
    finally:
        object.__setattr__(guide, "compare", compare)


@pytest.mark.parametrize("how", ["run", "exception", "cancel"])
def test_everything_around_a_run_is_as_it_was(execute, steered, how):
    before, contents = surroundings(), host_contents()
    ends(steered, execute, how)
    after, then = surroundings(), host_contents()
    assert {name: (before[name], after.get(name)) for name in before if after.get(name) != before[name]} == {}
    assert set(after) == set(before)
    assert [key for key in contents if then.get(key) != contents[key]] == []


def test_a_guided_run_leaves_the_random_numbers_that_a_bare_one_leaves(execute, steered, models):
    left = []
    for model in (models["scenes_unet"][0], steered[0]):
        torch.manual_seed(3)
        random.seed(3)
        numpy.random.seed(3)
        sample(execute, model, steps=3, batch=1)
        left.append(generators())
    assert left[0] == left[1]


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, ValueError, torch.OutOfMemoryError])
def test_an_exception_inside_a_guide_names_the_guide_and_keeps_its_kind(execute, steered, kind):
    model, guide = steered

    def broken(*_):
        raise kind("broke")

    compare = guide.compare
    object.__setattr__(guide, "compare", broken)
    try:
        with pytest.raises(kind) as caught:
            sample(execute, model, steps=3, batch=1)
    finally:
        object.__setattr__(guide, "compare", compare)
    assert caught.type is kind and caught.value.args[0] == "broke (the guide 'text: a red star')"
