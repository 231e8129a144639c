"""h-space edits under every guider: each prediction is edited that was asked for, by its meaning and not its place."""

import pytest
import torch
from host_guiders import host_guiders
from hosts import hosts_own
from hspace_edits import Hooked
from hspace_scenes import looked, off, predicted, random

pytestmark = pytest.mark.host
SIDES = {"positive": "cond", "middle": "cond", "condition": "cond", "negative": "uncond", "empty": "uncond"}


NAMES = ("BasicGuider", "CFGGuider", "DualCFG", "DualCFG at 1", "DualCFG nested", "PerpNeg")


@pytest.fixture
def three(host):
    return host.positive, host.negative, [[random(1, 5, 768, seed=8), {}]]


def combined(execute, model, conditions, negative=None):
    """CFG Combiner of (conditioning, options)."""
    found = [execute("Guidance_CFGCondition", conditioning=cond, **options)[0] for cond, options in conditions]
    wired = {f"condition{k}": condition for k, condition in enumerate(found)}
    given = {"model": model, "conditions": wired, "negative": negative, "method": {"method": "constant"}}
    return execute("Guidance_CFGCombiner", **given)[0]


def combiners(execute):
    """Of three conditionings: a second condition, a parent, and the references that make predictions of their own."""
    return {
        "second condition": lambda m, a, b, c: combined(
            execute,
            m,
            [(a, {"guidance_scale": 0.0, "reference": "none"}), (b, {"guidance_scale": 1.0, "reference": "none"})],
        ),
        "two and a negative": lambda m, a, b, c: combined(
            execute, m, [(a, {"guidance_scale": 3.0}), (b, {"guidance_scale": 2.0})], c
        ),
        "random": lambda m, a, b, c: combined(
            execute, m, [(a, {"guidance_scale": 3.0, "reference": "random condition"})]
        ),
        "perturbed": lambda m, a, b, c: combined(
            execute, m, [(a, {"guidance_scale": 3.0, "reference": "perturbed self"})]
        ),
        "other time": lambda m, a, b, c: combined(
            execute, m, [(a, {"guidance_scale": 3.0, "reference": "other time"})]
        ),
    }


@pytest.mark.parametrize(
    "name", [*NAMES, "second condition", "two and a negative", "random", "perturbed", "other time"]
)
def test_both_is_every_prediction_of_the_hooked_network(host, edit, execute, three, name):
    build = {**host_guiders(), **combiners(execute)}[name]
    plain = looked(build(host.model, *three), host)
    with Hooked(host, host.direction):
        expected = looked(build(host.model, *three), host)
    assert off(plain, expected) > 1e-3
    moved = edit(host.model, host.direction, asymmetric=False)
    assert off(looked(build(moved, *three), host), expected) < 1e-5
    stepped = edit(host.model, host.direction)
    assert off(looked(build(stepped, *three), host), plain) > 1e-3


def alone(host, cond, hooked):
    if not hooked:
        return predicted(host.model, host, positive=cond)
    with Hooked(host, host.direction):
        return predicted(host.model, host, positive=cond)


@pytest.mark.parametrize("side", ["cond", "uncond"])
@pytest.mark.parametrize("nested", [False, True])
def test_under_dual_cfg_positive_and_middle_are_cond(host, edit, three, side, nested):
    kinds = ("cond", "cond", "uncond")
    a, b, c = (alone(host, cond, kind == side) for cond, kind in zip(three, kinds, strict=True))
    expected = c + 2.0 * (b + 3.0 * (a - b) - c) if nested else c + 2.0 * (b - c) + 3.0 * (a - b)
    model = edit(host.model, host.direction, asymmetric=False, apply_to=side)
    build = host_guiders()["DualCFG nested" if nested else "DualCFG"]
    assert off(looked(build(model, *three), host), expected) < 1e-5


@pytest.mark.parametrize("side", ["cond", "uncond"])
def test_the_empty_prompt_of_perp_neg_is_uncond(host, edit, three, side):
    from comfy_extras.nodes_perpneg import perp_neg

    kinds = ("cond", "uncond", "uncond")
    a, b, c = (alone(host, cond, kind == side) for cond, kind in zip(three, kinds, strict=True))
    expected = perp_neg(host.noise, a, b, c, 1.0, 3.0)
    model = edit(host.model, host.direction, asymmetric=False, apply_to=side)
    assert off(looked(host_guiders()["PerpNeg"](model, *three), host), expected) < 1e-4


@pytest.mark.parametrize("side", ["cond", "uncond"])
def test_a_random_condition_is_uncond(host, edit, execute, three, side):
    """Which one it is, two runs with the scale 1 and 0 tell."""
    build = combiners(execute)["random"]
    options = {"guidance_scale": 0.0, "reference": "random condition"}
    said = looked(combined(execute, host.model, [(three[0], options)]), host)
    with Hooked(host, host.direction):
        hooked = looked(combined(execute, host.model, [(three[0], options)]), host)
    a = alone(host, three[0], side == "cond")
    r = hooked if side == "uncond" else said
    model = edit(host.model, host.direction, asymmetric=False, apply_to=side)
    assert off(looked(build(model, *three), host), r + 3.0 * (a - r)) < 1e-5


@pytest.mark.parametrize("side", ["both", "cond"])
def test_another_nodes_own_call_of_the_network_is_edited_by_what_it_asks_for(host, edit, three, side):
    """A function after CFG that predicts the positive once more, as SLG and PAG do."""
    import comfy.samplers

    def again(args):
        (found,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"], args["sigma"], args["model_options"]
        )
        return args["denoised"] + 0.5 * found

    model = edit(host.model, host.direction, asymmetric=False, apply_to=side)
    model.set_model_sampler_post_cfg_function(again)
    a, b = alone(host, three[0], True), alone(host, three[1], side == "both")
    expected = b + 3.0 * (a - b) + 0.5 * a
    assert off(looked(host_guiders()["CFGGuider"](model, *three), host), expected) < 1e-5


def test_a_guider_that_names_nothing_is_refused_where_a_side_was_asked_for(host, edit, three):
    """A node that makes conditionings of its own in the middle of a run."""
    import comfy.sampler_helpers
    import comfy.samplers

    class Nameless(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            own = comfy.sampler_helpers.convert_cond(three[2])
            own = comfy.samplers.encode_model_conds(self.inner_model.extra_conds, own, x, x.device, "positive")
            return comfy.samplers.calc_cond_batch(self.inner_model, [own], x, timestep, model_options)[0]

    def build(model):
        guider = Nameless(model)
        guider.set_conds(*three[:2])
        return guider

    moved = edit(host.model, host.direction, asymmetric=False)
    assert off(looked(build(moved), host), alone(host, three[2], True)) < 1e-5
    with pytest.raises(ValueError, match="apply_to is 'cond', and this guider doesn't tell"):
        looked(build(edit(host.model, host.direction, asymmetric=False, apply_to="cond")), host)


@pytest.mark.parametrize("side", ["both", "cond", "uncond"])
def test_conditions_with_areas_keep_their_sides(host, edit, three, side):
    """The host copies an area's condition to the other side, under the same uuid."""
    half = [[three[0][0][0], {"area": (16, 8, 0, 0), "strength": 1.0}], three[2][0]]
    build = host_guiders()["CFGGuider"]

    def split(hooked):
        from comfy.samplers import CFGGuider

        def one(positive, cfg):
            guider = CFGGuider(host.model)
            guider.set_conds(positive, three[1])
            guider.set_cfg(cfg)
            return looked(guider, host)

        if not hooked:
            return one(half, 1.0), one(half, 2.0)
        with Hooked(host, host.direction):
            return one(half, 1.0), one(half, 2.0)

    def sides(hooked):
        cond, guided = split(hooked)
        return cond, 2 * cond - guided  # u + 2 (c - u) = 2 c - u

    plain, moved = sides(False), sides(True)
    a = (moved if side in ("both", "cond") else plain)[0]
    b = (moved if side in ("both", "uncond") else plain)[1]
    model = edit(host.model, host.direction, asymmetric=False, apply_to=side)
    assert off(looked(build(model, half, three[1], three[2]), host), b + 3.0 * (a - b)) < 1e-4


# A second MODEL


def dual_model(model, negative, conds):
    guider = hosts_own("comfy_extras.nodes_custom_sampler", "Guider_DualModel")(model, negative)
    guider.set_conds(*conds[:2])
    guider.set_cfg(3.0)
    return guider


@pytest.fixture(scope="module")
def other(comfy):
    """A second network of the same kind, with its own weights."""
    import golden_files

    from bench.guide_cost import unet

    model = unet(channels=32)
    golden_files.fill(model.model.diffusion_model, "other.")
    return model


@pytest.mark.parametrize("asymmetric", [True, False])
def test_an_edit_acts_on_its_own_model_only(host, edit, three, other, asymmetric):
    model = edit(host.model, host.direction, asymmetric=asymmetric)
    a, b = predicted(model, host, positive=three[0]), predicted(other, host, positive=three[1])
    assert off(looked(dual_model(model, other, three), host), b + 3.0 * (a - b)) < 1e-5


def test_of_one_network_in_two_models_each_keeps_its_edits(host, edit, three):
    model = edit(host.model, host.direction)
    a, b = predicted(model, host, positive=three[0]), predicted(host.model, host, positive=three[1])
    assert off(looked(dual_model(model, host.model, three), host), b + 3.0 * (a - b)) < 1e-5
    b = predicted(model, host, positive=three[1])
    assert off(looked(dual_model(model, model, three), host), b + 3.0 * (a - b)) < 1e-5


@pytest.mark.parametrize("feature", ["edit", "edit of an edited model", "guide", "patch"])
def test_what_is_put_into_the_negative_model_is_refused(host, edit, execute, three, other, feature):
    main = edit(host.model, host.direction) if "edited" in feature else host.model
    if feature == "guide":
        (guide,) = execute("Guidance_PaletteGuide", image=torch.rand(1, 8, 8, 3), weight=1.0)
        second, *_ = execute("Guidance_ApplyGuides", model=other, guides=guide)
        said = "Apply Guides"
    elif feature == "patch":
        second, *_ = execute("Guidance_CFGPatch", model=other, method={"method": "constant"}, guidance_scale=3.0)
        said = "CFG Patch"
    else:
        second, said = edit(main if "edited" in feature else other, host.direction), "HSpace Edit"
    with pytest.raises(ValueError, match=f"{said}.*sampled beside another one"):
        looked(dual_model(main, second, three), host)
    looked(dual_model(main, other, three), host)


def test_begun_beside_another_an_edit_has_its_state_and_a_guide_is_refused(host, edit, execute, other):
    import comfy.samplers

    from pack.nodes.host.hspace.run import KEY
    from pack.nodes.host.run import begin_beside, course_of

    course = course_of(
        comfy.samplers.CFGGuider(host.model),
        torch.ones(1),
        comfy.samplers.sampler_object("euler"),
        torch.tensor([5.0, 0]),
    )
    options = {}
    begin_beside(course, edit(other, host.direction), options)
    assert options[KEY].course.model.model is other.model
    assert options[KEY].networks == {other.model: other.model.diffusion_model}
    patched, *_ = execute("Guidance_CFGPatch", model=other, method={"method": "constant"}, guidance_scale=3.0)
    with pytest.raises(ValueError, match="CFG Patch can't act on a second model"):
        begin_beside(course, patched, {})
