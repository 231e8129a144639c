"""The host's conditioning nodes on the pack's CONDITIONING: each does what its name says, or is refused in words."""

import pytest
import torch
from cfg_sampling import class_models, combiner, condition, guided, ksampler, start
from conftest import run_node
from hosts import hosts_own

pytestmark = pytest.mark.host
LEVEL = torch.tensor([5.0, 0.0])


@pytest.fixture(scope="module")
def models(pack_nodes):
    return class_models(pack_nodes)


@pytest.fixture(scope="module")
def autoencoder(pack_nodes):
    return run_node(pack_nodes, "Guidance_LoadDiffusionAutoencoder", model_name="scenes_diffae.safetensors")[0]


@pytest.fixture
def codes(autoencoder):
    """CONDITIONING of two codes of the autoencoder, and the codes [1 D]."""
    from pack.nodes.host.conditioning import semantic_conditioning

    drawn = torch.randn(2, 1, autoencoder.model.facts.semantic, generator=torch.Generator().manual_seed(0))
    return [semantic_conditioning(code) for code in drawn], drawn


def host(name, *inputs):
    node = hosts_own("nodes", name)()
    return getattr(node, node.FUNCTION)(*inputs)[0]


@pytest.fixture
def sampled(models, conds):
    """Of a positive CONDITIONING of classes, at cfg 1; with a negative at cfg 4."""

    def run(positive, negative=None, batch=2):
        cfg = 1.0 if negative is None else 4.0
        return ksampler(models["eps"], positive, negative or conds[""], cfg, batch=batch, sigmas=LEVEL)

    return run


def test_zero_out_is_no_class(conds, sampled):
    zeroed = host("ConditioningZeroOut", conds["star"])
    assert torch.equal(sampled(zeroed), sampled(conds[""]))
    assert torch.equal(sampled(conds["star"], zeroed), sampled(conds["star"], conds[""]))
    assert (sampled(conds["star"], zeroed) - sampled(conds["star"])).abs().max() > 0.01


@pytest.mark.parametrize(("strength", "label"), [(1.0, "star"), (0.0, "red")])
def test_average_at_its_ends_is_one_of_two_classes(conds, sampled, strength, label):
    average = host("ConditioningAverage", conds["star"], conds["red"], strength)
    assert torch.equal(sampled(average), sampled(conds[label]))


@pytest.mark.parametrize("strength", [0.5, 0.9])
@pytest.mark.parametrize("other", ["red", "dotted", ""])
def test_a_mixture_of_classes_is_refused(conds, sampled, other, strength):
    average = host("ConditioningAverage", conds["star"], conds[other], strength)
    with pytest.raises(ValueError, match="class was mixed.*Combine"):
        sampled(average)


@pytest.mark.parametrize("factor", [0.5, 2.0, -1.0])
def test_a_multiplied_class_is_refused(conds, sampled, factor):
    with pytest.raises(ValueError, match="mixed with another or multiplied"):
        sampled(host("ConditioningMultiply", conds["star"], factor))


def test_joined_classes_are_refused(conds, sampled):
    with pytest.raises(ValueError, match="one class.*Combine"):
        sampled(host("ConditioningConcat", conds["star"], conds["red"]))


def test_combine_is_the_mean_of_predictions(conds, sampled):
    both = host("ConditioningCombine", conds["star"], conds["red"])
    mean = (sampled(conds["star"]) + sampled(conds["red"])) / 2
    torch.testing.assert_close(sampled(both), mean.clamp(-1, 1), atol=0.2, rtol=0)
    assert (sampled(both) - sampled(conds["star"])).abs().max() > 0.01


def test_areas_masks_and_time_ranges_place_classes(conds, sampled):
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1
    star = host("ConditioningSetMask", conds["star"], left, "default", 1.0)
    red = host("ConditioningSetMask", conds["red"], 1 - left, "default", 1.0)
    made = sampled(host("ConditioningCombine", star, red))
    torch.testing.assert_close(made[..., :16], sampled(conds["star"])[..., :16], atol=1e-5, rtol=0)
    torch.testing.assert_close(made[..., 16:], sampled(conds["red"])[..., 16:], atol=1e-5, rtol=0)
    early = host("ConditioningSetTimestepRange", conds["star"], 0.0, 0.6)  # sigma 5 is at progress .8
    late = host("ConditioningSetTimestepRange", conds["red"], 0.6, 1.0)
    late_or_early = [sampled([*early, *late]), sampled(conds["red"]), sampled(conds["star"])]
    assert any(torch.equal(late_or_early[0], other) for other in late_or_early[1:])
    half = host("ConditioningSetAreaPercentage", conds["red"], 0.5, 1.0, 0.0, 0.0, 1.0)
    assert (sampled([*conds["star"], *half]) - sampled(conds["star"]))[..., :16].abs().max() > 0.01


def test_labels_go_to_their_pictures_and_start_again(execute, models, conds, sampled):
    (two,) = execute("Guidance_ClassConditioning", model=models["eps"], class_label="star\nred")
    made = sampled(two, batch=4)
    star, red = sampled(conds["star"], batch=4), sampled(conds["red"], batch=4)
    assert torch.equal(made, torch.stack([star[0], red[1], star[2], red[3]]))


@pytest.mark.parametrize("batch", [1, 2])
def test_more_labels_than_pictures_are_refused(execute, models, sampled, batch):
    (three,) = execute("Guidance_ClassConditioning", model=models["eps"], class_label="star\nred\ndotted")
    with pytest.raises(ValueError, match=f"3 class labels came for a batch of {batch}"):
        sampled(three, batch=batch)


def test_labels_keep_to_their_pictures_in_context_windows(execute, models, conds):
    """Windows over a batch: frames 0-3, 2-5, ... of labels that start again after three."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    (three,) = execute("Guidance_ClassConditioning", model=models["eps"], class_label="star\nred\ndotted")
    names = ("context_length", "context_overlap", "context_schedule", "context_stride", "closed_loop", "fuse_method")
    values = (4, 2, "standard_static", 1, False, "pyramid")
    windowed = ContextWindowsManualNode.execute(
        models["eps"], **dict(zip(names, values, strict=True)), dim=0, freenoise=False
    ).args[0]
    noise = start(6)
    made = guided(combiner(execute, windowed, [condition(execute, three, 3.0)], conds[""]), noise=noise, sigmas=LEVEL)
    whole = ksampler(models["eps"], three, conds[""], 3.0, noise=noise, sigmas=LEVEL)
    torch.testing.assert_close(made, whole, atol=1e-5, rtol=0)


def test_a_conditioning_of_another_kind_is_refused(models, conds, codes, autoencoder, sampled):
    text = [[torch.randn(1, 77, 768), {"pooled_output": torch.randn(1, 768)}]]
    with pytest.raises(ValueError, match="takes classes.*Class Conditioning"):
        sampled(text)
    with pytest.raises(ValueError, match="Apply Semantic is for"):
        sampled(codes[0][0])
    for label in ("star", ""):
        with pytest.raises(ValueError, match="semantic code of .* none was given"):
            ksampler(autoencoder, conds[label], conds[label], 1.0, sigmas=LEVEL)
    assert torch.equal(sampled(host("ConditioningZeroOut", text)), sampled(conds[""]))


def test_a_class_of_a_larger_model_is_refused(sampled):
    from pack.nodes.host.conditioning import class_conditioning

    with pytest.raises(ValueError, match="class 900 came, and this model has"):
        sampled(class_conditioning([900]))


def test_codes_can_be_averaged_multiplied_and_emptied(autoencoder, codes):
    from pack.nodes.host.conditioning import semantic_conditioning

    (one, other), drawn = codes

    def made(conditioning):
        return ksampler(autoencoder, conditioning, conditioning, 1.0, sigmas=LEVEL)

    wanted = {
        0.25 * drawn[0] + 0.75 * drawn[1]: host("ConditioningAverage", one, other, 0.25),
        2 * drawn[0]: host("ConditioningMultiply", one, 2.0),
        0 * drawn[0]: host("ConditioningZeroOut", one),
    }
    for code, conditioning in wanted.items():
        assert torch.equal(made(conditioning), made(semantic_conditioning(code)))
    assert (made(one) - made(host("ConditioningZeroOut", one))).abs().max() > 0.01


def test_joined_codes_are_refused(autoencoder, codes):
    (one, other), _ = codes
    joined = host("ConditioningConcat", one, other)
    with pytest.raises(ValueError, match="2 semantic codes were joined.*Average"):
        ksampler(autoencoder, joined, joined, 1.0, sigmas=LEVEL)


def test_a_random_condition_in_the_place_of_a_code_is_another_code(execute, autoencoder, codes):
    (one, _), _ = codes
    conditions = [condition(execute, one, 3.0, reference="random condition")]
    ours = guided(combiner(execute, autoencoder, conditions), sigmas=LEVEL)
    assert (ours - ksampler(autoencoder, one, one, 1.0, sigmas=LEVEL)).abs().max() > 0.01


def pictures_in(conditioning, noise):
    from pack.models.architecture import Facts
    from pack.nodes.host.pixel.small import picture_in

    embedding, options = conditioning[0]
    return picture_in({"cross_attn": embedding, "noise": noise, **options}, Facts(64))


def test_small_pictures_can_be_averaged_and_stay_whole(conds):
    from pack.nodes.host.pixel.small import with_picture

    noise, drawn = torch.zeros(2, 3, 32, 32), torch.rand(2, 1, 3, 16, 16) * 2 - 1
    one, other = (with_picture(conds["star"], picture) for picture in drawn)
    large = [pictures_in(each, noise) for each in (one, other)]
    average = pictures_in(host("ConditioningAverage", one, other, 0.25), noise)
    torch.testing.assert_close(average, 0.25 * large[0] + 0.75 * large[1], atol=1e-6, rtol=0)
    for spoilt in (host("ConditioningZeroOut", one), host("ConditioningMultiply", one, 0.5)):
        with pytest.raises(ValueError, match="emptied or multiplied"):
            pictures_in(spoilt, noise)
    with pytest.raises(ValueError, match="3 small pictures came for a batch of 2"):
        pictures_in(with_picture(conds["star"], torch.rand(3, 3, 16, 16)), noise)


def test_a_small_picture_for_a_model_that_enlarges_nothing_is_refused(conds, sampled):
    from pack.nodes.host.pixel.small import with_picture

    with pytest.raises(ValueError, match="Upscale Conditioning is for upsamplers"):
        sampled(with_picture(conds["star"], torch.zeros(1, 3, 16, 16)))
