"""Where a conditioning says nothing (time ranges, areas, masks of the host) it does not push in CFG Combiner."""

import pytest
import torch
from cfg_sampling import class_models, combiner, condition, guided, ksampler, patch, start, unclamped

pytestmark = pytest.mark.host
LEVEL = torch.tensor([5.0, 0.0])
LEFT = torch.zeros(1, 32, 32)
LEFT[..., :16] = 1


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


def changed(conditioning, **values):
    import node_helpers

    return node_helpers.conditioning_set_values(conditioning, values)


LATE = {"start_percent": 0.9, "end_percent": 1.0}  # sigma 5 is before it
MASKED = {"mask": LEFT, "set_area_to_bounds": False, "mask_strength": 1.0}
HALF = {"area": ("percentage", 1.0, 0.5, 0, 0), "strength": 1.0, "set_area_to_bounds": False}
BOUNDED = {**MASKED, "set_area_to_bounds": True}


def alone_and_with(execute, models, conds, second, kind="eps", name="constant", sigmas=LEVEL, **options):
    """Pictures of star, and of star with a second condition."""
    first = condition(execute, conds["star"], 4.0)
    one = guided(combiner(execute, models[kind], [first], conds[""], name), sigmas=sigmas)
    conditions = [first, condition(execute, second, 2.0, **options)]
    return one, guided(combiner(execute, models[kind], conditions, conds[""], name), sigmas=sigmas)


@pytest.mark.parametrize("scale", [2.0, -2.0])
@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_before_its_time_range_a_second_condition_is_not_there(execute, models, conds, kind, scale):
    sigmas = LEVEL if kind != "flow" else torch.tensor([0.9, 0.0])
    first = condition(execute, conds["star"], 4.0)
    late = condition(execute, changed(conds["red"], **LATE), scale)
    one = guided(combiner(execute, models[kind], [first], conds[""]), sigmas=sigmas)
    both = guided(combiner(execute, models[kind], [first, late], conds[""]), sigmas=sigmas)
    assert torch.equal(one, both)


@pytest.mark.parametrize("name", ["rescale", "APG", "perp-neg", "CFG-Zero*", "frequency (FDG)"])
def test_methods_do_not_see_a_condition_before_its_time_range(execute, models, conds, name):
    one, both = alone_and_with(execute, models, conds, changed(conds["red"], **LATE), name=name)
    torch.testing.assert_close(one, both, atol=1e-5, rtol=0)


@pytest.mark.parametrize("limits", [MASKED, HALF, BOUNDED], ids=["mask", "area", "mask bounds"])
def test_outside_its_mask_or_area_a_second_condition_changes_nothing(execute, models, conds, limits):
    one, both = alone_and_with(execute, models, conds, changed(conds["red"], **limits))
    assert torch.equal(one[..., 16:], both[..., 16:])
    assert (one[..., :12] - both[..., :12]).abs().max() > 0.01


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.usefixtures("pack_nodes")
def test_an_area_says_all_it_says_up_to_its_edge(strength):
    from pack.nodes.host.cfg.coverage import coverage

    left = {"uuid": 1, "area": (32, 16, 0, 0), "strength": strength}
    expected = (LEFT * strength).expand(2, 3, 32, 32)
    assert torch.equal(coverage([left], torch.zeros(2, 3, 32, 32), LEVEL[:1]), expected)
    right = {"uuid": 2, "area": (32, 16, 0, 16), "strength": 1.0}
    sides = coverage([left, right], torch.zeros(2, 3, 32, 32), LEVEL[:1])
    assert sides is None if strength == 1 else torch.equal(sides, expected + (1 - LEFT))


@pytest.mark.parametrize("inside", [1.0, 0.5, 0.25])
def test_a_mask_of_the_host_is_the_mask_of_cfg_condition(execute, models, conds, inside):
    masked = {**MASKED, "mask": LEFT * inside}
    _, host = alone_and_with(execute, models, conds, changed(conds["red"], **masked))
    _, own = alone_and_with(execute, models, conds, conds["red"], mask=LEFT * inside)
    torch.testing.assert_close(host, own, atol=2e-5, rtol=0)


def test_strengths_of_masks_multiply_them(execute, models, conds):
    masked = {**MASKED, "mask": LEFT * 0.5, "mask_strength": 0.5}
    _, host = alone_and_with(execute, models, conds, changed(conds["red"], **masked))
    _, own = alone_and_with(execute, models, conds, conds["red"], mask=LEFT * 0.25)
    torch.testing.assert_close(host, own, atol=2e-5, rtol=0)


def test_each_picture_has_its_own_mask(execute, models, conds):
    masks = torch.cat([LEFT, 1 - LEFT])
    _, both = alone_and_with(execute, models, conds, changed(conds["red"], **{**MASKED, "mask": masks}))
    noise = start(2)
    for k in range(2):
        conditions = [condition(execute, conds["star"], 4.0)]
        conditions += [condition(execute, changed(conds["red"], **{**MASKED, "mask": masks[k : k + 1]}), 2.0)]
        alone = guided(combiner(execute, models["eps"], conditions, conds[""]), noise=noise[k : k + 1], sigmas=LEVEL)
        torch.testing.assert_close(both[k : k + 1], alone, atol=1e-4, rtol=0)


def test_default_conds_say_the_rest(execute, models, conds):
    """Red at the left and, by default, dotted elsewhere: the push is that of each in its place."""
    left = changed(conds["red"], **MASKED)
    _, both = alone_and_with(execute, models, conds, [*left, *changed(conds["dotted"], default=True)])
    _, red = alone_and_with(execute, models, conds, conds["red"])
    _, dotted = alone_and_with(execute, models, conds, conds["dotted"])
    torch.testing.assert_close(both[..., :16], red[..., :16], atol=2e-5, rtol=0)
    torch.testing.assert_close(both[..., 16:], dotted[..., 16:], atol=2e-5, rtol=0)


def test_two_conditions_side_by_side_guide_each_its_side(execute, models, conds):
    """The first one too: outside its mask stands what the second makes of the negative."""
    star, red = changed(conds["star"], **MASKED), changed(conds["red"], **{**MASKED, "mask": 1 - LEFT})
    sides = [condition(execute, star, 4.0), condition(execute, red, 3.0)]
    both = guided(combiner(execute, models["eps"], sides, conds[""]), sigmas=LEVEL)
    for label, scale, columns in (("star", 4.0, slice(0, 16)), ("red", 3.0, slice(16, 32))):
        one = ksampler(models["eps"], conds[label], conds[""], scale, sigmas=LEVEL)
        torch.testing.assert_close(both[..., columns], one[..., columns], atol=2e-5, rtol=0)


@pytest.mark.parametrize("limits", [LATE, MASKED], ids=["time range", "mask"])
def test_where_the_negative_says_nothing_there_is_no_guidance(execute, models, conds, limits):
    conditions = [condition(execute, conds["star"], 4.0), condition(execute, conds["red"], 2.0)]
    made = guided(combiner(execute, models["eps"], conditions, changed(conds[""], **limits)), sigmas=LEVEL)
    plain = ksampler(models["eps"], conds["star"], conds[""], 1.0, sigmas=LEVEL)
    torch.testing.assert_close(made[..., 16:], plain[..., 16:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("limits", [LATE, MASKED], ids=["time range", "mask"])
def test_where_a_parent_says_nothing_its_child_does_not_push(execute, models, conds, limits):
    parent = condition(execute, changed(conds["dotted"], **limits), 1.0)
    one, both = alone_and_with(execute, models, conds, conds["red"], reference="parent", parent=parent)
    torch.testing.assert_close(one[..., 16:], both[..., 16:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("limits", [LATE, MASKED, HALF], ids=["time range", "mask", "area"])
def test_a_single_condition_is_the_hosts_whatever_it_covers(execute, models, conds, limits):
    star = changed(conds["star"], **limits)
    ours = guided(combiner(execute, models["eps"], [condition(execute, star, 4.0)], conds[""]), sigmas=LEVEL)
    assert torch.equal(ours, ksampler(models["eps"], star, conds[""], 4.0, sigmas=LEVEL))


@pytest.mark.parametrize("name", ["rescale", "APG", "CFG-Zero*", "tangential (TCFG)"])
@pytest.mark.parametrize("node", ["patch", "combiner"])
def test_methods_find_no_guidance_where_the_negative_says_nothing(execute, models, conds, node, name):
    model, negative = unclamped(models["eps"]), changed(conds[""], **LATE)
    if node == "patch":
        made = ksampler(patch(execute, model, name), conds["star"], negative, 4.0, sigmas=LEVEL)
    else:
        conditions = [condition(execute, conds["star"], 4.0)]
        made = guided(combiner(execute, model, conditions, negative, name), sigmas=LEVEL)
    plain = ksampler(model, conds["star"], conds[""], 1.0, sigmas=LEVEL)
    torch.testing.assert_close(made, plain, atol=1e-4, rtol=0)


def test_masks_that_do_not_fit_the_batch_are_refused(execute, models, conds):
    three = {**MASKED, "mask": LEFT.expand(3, -1, -1)}
    for second in (changed(conds["red"], **three), conds["red"]):
        mask = three["mask"] if second is conds["red"] else None
        with pytest.raises(ValueError, match="mask of condition 2 has 3 pictures for a batch of 2"):
            alone_and_with(execute, models, conds, second, mask=mask)
