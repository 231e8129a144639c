"""A direction behind a transformer's block: under guiders, in runs cut in two, beside LoRA and Edit Guard."""

import pytest
import torch
from host_guiders import host_guiders
from hspace_scenes import looked, off, predicted, random, run
from hspace_transformers import BLOCK, LEVELS, SMALL, direction, edited, small

pytestmark = pytest.mark.host
THREE = {"BasicGuider": "c", "CFGGuider": "cu", "DualCFG": "ccu", "DualCFG nested": "ccu", "PerpNeg": "cuu"}


@pytest.fixture(scope="module")
def wan(comfy):
    return small("WAN21_T2V")


class Hooked:
    """Every token of the picture plus the direction, by torch alone."""

    def __init__(self, scene):
        self.layer, self.direction = scene.model.model.diffusion_model.blocks[BLOCK], scene.direction.flatten()

    def __enter__(self):
        self.handle = self.layer.register_forward_hook(lambda module, inputs, tokens: tokens + self.direction)

    def __exit__(self, *problem):
        self.handle.remove()


def three(scene):
    ((words, told),) = scene.negative
    return scene.positive, scene.negative, [[random(*words.shape, seed=8), told]]


@pytest.mark.parametrize("name", THREE)
def test_under_a_guider_both_is_every_prediction_of_the_hooked_network(wan, edit, name):
    build = host_guiders()[name]
    plain = looked(build(wan.model, *three(wan)), wan, levels=LEVELS)
    with Hooked(wan):
        expected = looked(build(wan.model, *three(wan)), wan, levels=LEVELS)
    assert off(plain, expected) > 1e-3
    moved = edited(edit, wan, wan.direction, asymmetric=False, end_percent=1.0)
    assert off(looked(build(moved, *three(wan)), wan, levels=LEVELS), expected) < 1e-5
    stepped = edited(edit, wan, wan.direction)
    assert off(looked(build(stepped, *three(wan)), wan, levels=LEVELS), plain) > 1e-3


@pytest.mark.parametrize("side", ["cond", "uncond"])
@pytest.mark.parametrize("name", ["DualCFG", "DualCFG nested"])
def test_positive_and_middle_are_cond_and_the_negative_is_uncond(wan, edit, name, side):
    found = []
    for cond, letter in zip(three(wan), THREE[name], strict=True):
        if (letter == "c") == (side == "cond"):
            with Hooked(wan):
                found.append(predicted(wan.model, wan, positive=cond, levels=LEVELS))
        else:
            found.append(predicted(wan.model, wan, positive=cond, levels=LEVELS))
    a, b, c = found
    expected = c + 2.0 * (b + 3.0 * (a - b) - c) if name == "DualCFG nested" else c + 2.0 * (b - c) + 3.0 * (a - b)
    model = edited(edit, wan, wan.direction, asymmetric=False, apply_to=side, end_percent=1.0)
    assert off(looked(host_guiders()[name](model, *three(wan)), wan, levels=LEVELS), expected) < 1e-5


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("family", SMALL)
def test_a_run_that_is_cut_in_two_edits_as_the_whole_run(comfy, edit, family, asymmetric):
    """The second sampler adds no noise. `percent` of the window is the schedule's, not the run's."""
    scene = small(family)
    options = {"asymmetric": asymmetric, "end_percent": 0.6}
    model = edited(edit, scene, scene.direction, **options)
    whole = drawn(model, scene, 0, 6)
    half = drawn(model, scene, 0, 2)
    assert off(drawn(model, scene, 2, 6, half), whole) < 1e-5
    assert off(drawn(scene.model, scene, 0, 6), whole) > 1e-4


def drawn(model, scene, first, last, latent=None):
    """Steps of euler out of six, as KSampler (Advanced) runs them."""
    import comfy.sample

    noise = scene.noise if latent is None else torch.zeros_like(scene.noise)
    latent = torch.zeros_like(scene.noise) if latent is None else latent
    options = {"start_step": first, "last_step": last, "force_full_denoise": last == 6, "disable_noise": first > 0}
    given = (model, noise, 6, 3.0, "euler", "simple", scene.positive, scene.negative, latent)
    with torch.inference_mode():
        return comfy.sample.sample(*given, **options, seed=1, disable_pbar=True)


@pytest.mark.parametrize("family", ["WAN21_T2V", "SD3"])
@pytest.mark.parametrize("first", ["edit", "compile"])
def test_a_compiled_transformer_is_edited(comfy, edit, family, first):
    """Whichever node comes first."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    scene = small(family)
    expected = predicted(edited(edit, scene, scene.direction), scene, levels=LEVELS)
    plain = predicted(scene.model, scene, levels=LEVELS)
    model = scene.model.clone()
    if first == "compile":
        set_torch_compile_wrapper(model, backend="eager")
    model = edit(model, direction(scene.direction))
    if first == "edit":
        set_torch_compile_wrapper(model, backend="eager")
    assert off(expected, plain) > 1e-3
    assert off(predicted(model, scene, levels=LEVELS), expected) < 1e-5


def test_lora_weights_and_an_edit_are_both_at_work(wan, edit):
    """As on the network whose weights hold the LoRA already."""
    name = f"blocks.{BLOCK + 1}.ffn.0.weight"
    weight = wan.model.model.diffusion_model.get_parameter(name)
    change = 0.1 * random(*weight.shape, seed=7)
    lora = wan.model.clone()
    lora.add_patches({f"diffusion_model.{name}": (change,)}, 0.7)
    found = predicted(
        edit(lora, direction(wan.direction), asymmetric=False, end_percent=1.0), wan, cfg=3.0, levels=LEVELS
    )
    with torch.inference_mode():
        weight += 0.7 * change
        with Hooked(wan):
            expected = predicted(wan.model, wan, cfg=3.0, levels=LEVELS)
        weight -= 0.7 * change
    assert off(found, expected) < 1e-5
    moved = edited(edit, wan, wan.direction, asymmetric=False, end_percent=1.0)
    assert off(predicted(moved, wan, cfg=3.0, levels=LEVELS), expected) > 1e-4


def test_edit_guard_in_front_or_behind_holds_the_source_and_the_edit_moves_the_rest(wan, edit, execute):
    source, mask = random(1, *wan.shape, seed=9), torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1

    def guarded(model):
        given = {"source": {"samples": source}, "hold": "all", "mask": mask}
        return execute("Guidance_EditGuard", model=model, **given)[0]

    def move(model):
        return edit(model, direction(wan.direction), end_percent=1.0)

    plain = run(guarded(wan.model), wan, cfg=3.0)
    found = run(move(guarded(wan.model)), wan, cfg=3.0)
    assert torch.equal(run(guarded(move(wan.model)), wan, cfg=3.0), found)
    assert off(found[..., 4:], source[..., 4:].expand_as(found[..., 4:])) < 1e-6
    assert off(found[..., :4], plain[..., :4]) > 0.01
