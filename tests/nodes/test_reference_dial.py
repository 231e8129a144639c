"""Reference Dial on the host's own edit models: D0 + d (D1 - D0) of the predictions without and with the picture."""

from functools import cache

import pytest
import torch
from cfg_sampling import Counter
from edit_models import MODELS, cfg_guider, predicted, told
from host_unets import random

pytestmark = pytest.mark.host
KINDS = list(MODELS)


@pytest.fixture(scope="module")
def edit_models(comfy):
    return cache(lambda name: MODELS[name][0]())


@pytest.fixture
def look(execute, edit_models):
    """What a guider predicts at a dial; None: without the node. Conditionings that show the picture, or don't."""

    def at(name, dial, cfg=1.0, shows=(True, True), model=None, positive=None, batch=1, **given):
        model = edit_models(name) if model is None else model
        if dial is not None:
            (model,) = execute("Guidance_ReferenceDial", model=model, dial=dial, **given)
        sides = [told(name, seed, shown) for seed, shown in zip((3, 4), shows, strict=True)]
        guider = cfg_guider(model, sides[0] if positive is None else positive, sides[1], cfg)
        return predicted(guider, MODELS[name][1], batch)

    return at


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_at_0_it_is_the_run_without_the_reference_and_at_1_the_run_with_it_to_the_bit(look, name, cfg):
    without, seen = look(name, None, cfg, (False, False)), look(name, None, cfg)
    assert not torch.allclose(without, seen, atol=1e-3)
    assert torch.equal(look(name, 0.0, cfg), without)
    assert torch.equal(look(name, 1.0, cfg), seen)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("dial", "cfg"), [(2.0, 1.0), (-1.0, 1.0), (0.4, 3.0), (1.5, 3.0)])
def test_between_and_beyond_it_is_the_line_through_both(look, name, dial, cfg):
    without, seen = look(name, None, cfg, (False, False)), look(name, None, cfg)
    expected = without + dial * (seen - without)
    torch.testing.assert_close(look(name, dial, cfg), expected, atol=2e-5, rtol=1e-5)


def test_a_negative_without_a_reference_stays_as_it_is(look):
    """uncond, text, text and reference: the chain of two scales."""
    names = ("kontext", None, 3.0)
    uncond, seen = look(*names[:2], 1.0, (False, False), positive=told("kontext", 4, False)), look("kontext", None)
    text = look("kontext", None, 1.0, (False, False))
    expected = uncond + 3.0 * (text - uncond) + 3.0 * 2.0 * (seen - text)
    torch.testing.assert_close(look("kontext", 2.0, 3.0, (True, False)), expected, atol=5e-5, rtol=1e-5)


def test_it_calls_the_network_once_more_only_where_it_has_to(execute, edit_models, look):
    """At 1 not at all, at 0 instead, else beside; a window's outside is as 1."""
    calls = {}
    for dial, window in ((1.0, {}), (0.0, {}), (2.0, {}), (2.0, {"start_percent": 0.0, "end_percent": 0.5})):
        counter = Counter(edit_models("kontext"))
        look("kontext", dial, model=counter.model, **window)
        calls[dial, len(window)] = counter.pictures
    assert calls == {(1.0, 0): 1, (0.0, 0): 1, (2.0, 0): 2, (2.0, 2): 1}


def test_what_is_given_as_without_counts_in_its_place(look):
    without = told("qwen", 7, False)
    bare, seen = look("qwen", None, positive=without), look("qwen", None)
    torch.testing.assert_close(look("qwen", 2.0, without=without), 2 * seen - bare, atol=2e-5, rtol=1e-5)
    assert torch.equal(look("qwen", 0.0, without=without), bare)


def test_each_picture_of_a_batch_equals_itself_alone(look):
    both, one = look("kontext", 1.7, 3.0, batch=2), look("kontext", 1.7, 3.0)
    torch.testing.assert_close(both[:1], one, atol=2e-5, rtol=1e-5)


def test_several_conditionings_with_areas_are_dialled_where_they_are(look):
    """The left half shows a picture, the right half another text without one."""
    left = [[value, {**extra, "area": (8, 4, 0, 0)}] for value, extra in told("ip2p", 3)]
    right = [[value, {**extra, "area": (8, 4, 0, 4)}] for value, extra in told("ip2p", 5, False)]
    bare = [[value, {key: part for key, part in extra.items() if key == "area"}] for value, extra in left]
    seen, without = look("ip2p", None, positive=left + right), look("ip2p", None, positive=bare + right)
    found = look("ip2p", 2.0, positive=left + right)
    torch.testing.assert_close(found, 2 * seen - without, atol=2e-5, rtol=1e-5)
    assert torch.equal(found[..., 4:], seen[..., 4:])


def test_given_conditionings_of_another_area_count_where_both_say_something(look):
    half = [[value, {**extra, "area": (8, 4, 0, 0), "strength": 1.0}] for value, extra in told("ip2p", 3)]
    without = told("ip2p", 7, False)
    found, seen = look("ip2p", 3.0, positive=half, without=without), look("ip2p", None, positive=half)
    assert torch.equal(found[..., 4:], seen[..., 4:])
    assert not torch.allclose(found[..., :4], seen[..., :4], atol=1e-3)


def test_it_works_under_dual_cfg_and_the_combiner(execute, edit_models):
    from comfy_extras.nodes_custom_sampler import DualCFGGuider

    (model,) = execute("Guidance_ReferenceDial", model=edit_models("kontext"), dial=2.0)
    first, second, negative = (told("kontext", seed) for seed in (3, 5, 4))
    conditions = [
        execute("Guidance_CFGCondition", conditioning=one, guidance_scale=scale)[0]
        for one, scale in ((first, 2.0), (second, 1.5))
    ]

    def guiders(model):
        yield DualCFGGuider.execute(model, first, second, negative, 2.0, 1.5, "regular").args[0]
        given = {"conditions": {f"condition{k}": one for k, one in enumerate(conditions)}, "negative": negative}
        yield execute("Guidance_CFGCombiner", model=model, method={"method": "constant"}, **given)[0]

    (bare,) = execute("Guidance_ReferenceDial", model=edit_models("kontext"), dial=0.0)
    shape = MODELS["kontext"][1]
    for dialled, plain, without in zip(*map(guiders, (model, edit_models("kontext"), bare)), strict=True):
        expected = 2 * predicted(plain, shape) - predicted(without, shape)
        torch.testing.assert_close(predicted(dialled, shape), expected, atol=1e-4, rtol=1e-5)


def test_in_context_windows_the_reference_is_cut_like_its_text(execute, comfy):
    """The host's windows over the pictures of a batch."""
    import comfy.context_windows as windows

    name = "ip2p"
    plain = MODELS[name][0]()
    context = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
        fuse_method=windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID),
        context_length=2,
        context_overlap=0,
        dim=0,
    )
    plain.model_options["context_handler"] = context
    shape = MODELS[name][1]
    pictures = [[random(4, 5, 16, seed=3), {"concat_latent_image": random(4, *shape, seed=9)}]]
    bare = [[pictures[0][0], {}]]
    (model,) = execute("Guidance_ReferenceDial", model=plain, dial=2.0)
    found, seen, without = (
        predicted(cfg_guider(one, positive, positive, 1.0), shape, 4)
        for one, positive in ((model, pictures), (plain, pictures), (plain, bare))
    )
    torch.testing.assert_close(found, 2 * seen - without, atol=2e-5, rtol=1e-5)


def test_the_guider_has_its_conditionings_back_after_the_run(execute, edit_models):
    (model,) = execute("Guidance_ReferenceDial", model=edit_models("kontext"), dial=2.0)
    guider = cfg_guider(model, told("kontext", 3), told("kontext", 4), 1.0)
    first = predicted(guider, MODELS["kontext"][1])
    assert set(guider.original_conds) == {"positive", "negative"}
    assert torch.equal(first, predicted(guider, MODELS["kontext"][1]))


def test_a_run_without_any_reference_is_refused(look):
    with pytest.raises(ValueError, match="Reference Dial: no conditioning of this run shows a reference picture"):
        look("kontext", 2.0, shows=(False, False))


def test_a_second_dial_is_refused(execute, edit_models):
    (model,) = execute("Guidance_ReferenceDial", model=edit_models("kontext"), dial=2.0)
    with pytest.raises(ValueError, match="there is a Reference Dial in this MODEL already"):
        execute("Guidance_ReferenceDial", model=model, dial=2.0)


def test_hooks_on_what_is_given_as_without_are_refused(look):
    """The host has registered the hooks of a guider's own conditionings by then."""
    without = [[value, {**extra, "hooks": object()}] for value, extra in told("kontext", 7, False)]
    with pytest.raises(ValueError, match="Reference Dial: what is said without the reference has hooks"):
        look("kontext", 2.0, without=without)


def test_a_random_condition_beside_it_is_refused(execute, edit_models):
    (model,) = execute("Guidance_ReferenceDial", model=edit_models("kontext"), dial=2.0)
    given = {"conditioning": told("kontext", 3), "guidance_scale": 2.0, "reference": "random condition"}
    (condition,) = execute("Guidance_CFGCondition", **given)
    conditions = {"condition0": condition}
    (guider, _) = execute("Guidance_CFGCombiner", model=model, conditions=conditions, method={"method": "constant"})
    with pytest.raises(ValueError, match="random condition"):
        predicted(guider, MODELS["kontext"][1])


def test_what_is_kept_around_a_hole_is_a_reference_too(execute):
    """The shipped model, which reads texts and fills holes."""
    import comfy.sample

    (model, _) = execute("Guidance_LoadModel", model_name="scenes_text.safetensors")
    (text,) = execute("Guidance_TextConditioning", model=model, text="a red star")
    mask = torch.zeros(1, 32, 32)
    mask[..., 16:] = 1
    picture = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(3))
    (kept,) = execute("Guidance_InpaintConditioning", conditioning=text, image=picture, mask=mask)

    def drawn(dial, told):
        (dialled,) = execute("Guidance_ReferenceDial", model=model, dial=dial)
        empty = torch.zeros(1, 3, 32, 32)
        noise = random(1, 3, 32, 32, seed=1)
        options = {"disable_pbar": True, "seed": 1}
        with torch.inference_mode():
            return comfy.sample.sample(dialled, noise, 2, 1.0, "euler", "normal", told, told, empty, **options)

    assert not torch.allclose(drawn(0.0, kept), drawn(1.0, kept), atol=1e-2)
    assert torch.equal(drawn(1.0, kept)[..., :16], drawn(3.0, kept)[..., :16])  # what is kept is put into every x0
