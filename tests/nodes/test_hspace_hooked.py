"""HSpace Edit makes the pictures of the network with a hook of torch: with CFG, other nodes, older hosts and videos."""

import golden_files
import pytest
import torch
from hspace_edits import Hooked, composed, older
from hspace_scenes import Scene, off, predicted, random, run

pytestmark = pytest.mark.host


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("side", ["both", "cond", "uncond"])
def test_each_side_of_cfg_is_the_hooked_network(host, edit, side, asymmetric):
    """By hand: D' = D + (D~ - D) / (1 - 2 / 5), or D~, on the sides that were asked for; then CFG."""
    parts = {}
    for name, cond in (("cond", host.positive), ("uncond", host.negative)):
        plain = predicted(host.model, host, positive=cond)
        with Hooked(host, host.direction):
            moved = predicted(host.model, host, positive=cond)
        changed = plain + (moved - plain) / (1 - 2 / 5) if asymmetric else moved
        parts[name] = changed if side in ("both", name) else plain
    expected = parts["uncond"] + 3.0 * (parts["cond"] - parts["uncond"])
    model = edit(host.model, host.direction, asymmetric=asymmetric, apply_to=side)
    assert off(predicted(model, host, cfg=3.0), expected) < 1e-5


def test_two_symmetric_edits_keep_to_their_sides(host, edit):
    other, parts = random(1, host.channels, 1, 1, seed=9), {}
    for name, cond, direction in (("cond", host.positive, host.direction), ("uncond", host.negative, other)):
        with Hooked(host, direction):
            parts[name] = predicted(host.model, host, positive=cond)
    expected = parts["uncond"] + 3.0 * (parts["cond"] - parts["uncond"])
    model = edit(host.model, host.direction, asymmetric=False, apply_to="cond")
    model = edit(model, other, asymmetric=False, apply_to="uncond")
    assert off(predicted(model, host, cfg=3.0), expected) < 1e-5


@pytest.mark.parametrize("asymmetric", [True, False])
def test_an_older_host_gives_the_same_numbers(host, edit, asymmetric):
    model = edit(host.model, host.direction, asymmetric=asymmetric)
    assert off(run(older(model), host, cfg=3.0), run(model, host, cfg=3.0)) < 1e-5
    still = edit(host.model, 0 * host.direction, asymmetric=asymmetric)
    assert torch.equal(run(older(still), host, cfg=3.0), run(host.model, host, cfg=3.0))


@pytest.mark.parametrize("host_age", ["new", "old"])
@pytest.mark.parametrize("kind", ["LoRA", "FreeU_V2", "output patch", "ControlNet"])
def test_another_nodes_patch_acts_on_both_passes(host, edit, kind, host_age):
    model, positive = composed(host, kind)
    age = older if host_age == "old" else lambda model: model
    plain = predicted(model, host, 3.0, positive)
    assert not torch.allclose(plain, predicted(host.model, host, 3.0))
    for asymmetric in (True, False):
        still = age(edit(model, 0 * host.direction, asymmetric=asymmetric))
        assert torch.equal(predicted(still, host, 3.0, positive), plain)
    with Hooked(host, host.direction):
        expected = predicted(model, host, 3.0, positive)
    moved = age(edit(model, host.direction, asymmetric=False))
    assert off(predicted(moved, host, 3.0, positive), expected) < 1e-5


@pytest.mark.parametrize("asymmetric", [True, False])
def test_a_compiled_model_is_edited(host, edit, asymmetric):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = edit(host.model, host.direction, asymmetric=asymmetric)
    expected = predicted(model, host)
    set_torch_compile_wrapper(model, backend="eager")
    assert off(predicted(model, host), expected) < 1e-5


def test_two_edits_in_a_chain_share_one_plain_pass(host, edit):
    first, second = host.direction, random(1, host.channels, 1, 1, seed=9)
    plain = predicted(host.model, host)
    single = [predicted(edit(host.model, part), host) - plain for part in (first, second)]
    both = predicted(edit(edit(host.model, first), second), host)
    assert off(both, plain + sum(single)) < 1e-5


# U-Nets of videos


@pytest.fixture(scope="module")
def video(comfy):
    """A U-Net of SVD's kind on clips of two frames, whose blocks also need the number of frames."""
    import comfy.conds
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 32,
            "num_res_blocks": [1, 1],
            "channel_mult": (1, 2),
            "transformer_depth": [1, 1],
            "transformer_depth_output": [1] * 4,
            "transformer_depth_middle": 1,
            "context_dim": 16,
            "num_heads": 4,
            "use_spatial_transformer": True,
            "use_temporal_attention": True,
            "use_temporal_resblock": True,
            "video_kernel_size": [3, 1, 1],
            "extra_ff_mix_layer": True,
            "use_spatial_context": True,
            "merge_strategy": "learned_with_images",
            "legacy": False,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, device=torch.device("cpu"))
    golden_files.fill(model.diffusion_model, "video.")
    conds = model.extra_conds
    model.extra_conds = lambda **given: {**conds(**given), "num_video_frames": comfy.conds.CONDConstant(2)}
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
    positive, negative = ([[random(1, 5, 16, seed=seed), {}]] for seed in (3, 4))
    return Scene(patcher, (4, 8, 8), positive, negative, 64)


@pytest.mark.parametrize("host_age", ["new", "old"])
def test_the_frames_of_a_video_are_edited_together(video, edit, host_age):
    age = older if host_age == "old" else lambda model: model
    plain = predicted(video.model, video, cfg=3.0)
    assert torch.equal(predicted(age(edit(video.model, 0 * video.direction)), video, cfg=3.0), plain)
    with Hooked(video, video.direction):
        expected = predicted(video.model, video, cfg=3.0)
    moved = age(edit(video.model, video.direction, asymmetric=False))
    assert off(predicted(moved, video, cfg=3.0), expected) < 1e-5
