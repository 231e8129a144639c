"""HSpace Edit in the host, in process: neutral bits, what a direction changes, how often the network runs for it."""

import pytest
import torch
from hspace_scenes import KINDS, off, predicted, random, run

pytestmark = pytest.mark.host


@pytest.fixture(params=KINDS)
def scene(request, scenes):
    return scenes[request.param]


# Nothing changes


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize(
    "neutral", ["zero strength", "empty window", "window between steps", "zero delta", "black mask"]
)
def test_a_neutral_edit_leaves_every_bit(scene, edit, neutral, asymmetric):
    delta, options = scene.direction, {"asymmetric": asymmetric}
    if neutral == "zero strength":
        options["strength"] = 0.0
    elif neutral == "empty window":
        options |= {"start_percent": 0.3, "end_percent": 0.3}
    elif neutral == "window between steps":
        options |= {"start_percent": 0.98, "end_percent": 0.99}
    elif neutral == "black mask":
        options["mask"] = torch.zeros(1, 8, 8)
    else:
        delta = torch.zeros_like(delta)
    edited = edit(scene.model, delta, **options)
    if neutral in ("zero strength", "empty window"):
        assert edited is scene.model
        return
    cfg = 3.0 if scene.channels == 128 else 1.0
    assert torch.equal(run(edited, scene, cfg=cfg), run(scene.model, scene, cfg=cfg))


@pytest.mark.parametrize("asymmetric", [True, False])
def test_a_direction_changes_the_picture(scene, edit, asymmetric):
    changed = run(edit(scene.model, 10 * scene.direction, asymmetric=asymmetric), scene)
    assert changed.isfinite().all()
    assert not torch.equal(changed, run(scene.model, scene))


@pytest.mark.parametrize("asymmetric", [True, False])
def test_an_image_of_a_batch_equals_itself_alone(scene, edit, asymmetric):
    model = edit(scene.model, scene.direction, asymmetric=asymmetric, preserve_norm=True)
    noise = random(3, *scene.shape, seed=6)
    levels = (0.3, 0.1, 0.0)
    together = predicted(model, scene, noise=noise, levels=levels)
    for index in range(3):
        alone = predicted(model, scene, noise=noise[index : index + 1], levels=levels)
        assert off(alone[0], together[index]) < 1e-5


def test_combined_directions_count_one_over_the_root_of_their_number(host, edit, execute):
    from pack.nodes.host.hspace.edit import direction_edit

    one = direction_edit(host.direction, name="d")
    (four,) = execute("Guidance_CombineHSpace", edits={f"edit{k}": [one] for k in range(4)})
    assert len(four) == 4
    assert off(run(edit(host.model, *four), host), run(edit(host.model, one, strength=2.0), host)) < 1e-5


def test_a_model_without_a_bottleneck_is_refused_in_words(host, edit):
    model = host.model.clone()
    model.model = torch.nn.Module()
    model.model.diffusion_model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="h-space is the bottleneck of a U-Net.*is a Linear.*input 'model'"):
        edit(model, host.direction)


# Cost


def test_the_decoder_half_runs_again_inside_the_window_alone(scene, edit):
    names = {"input_blocks": 0, "output_blocks": 0}
    handles = []
    for half in names:
        layers = [
            part
            for name, part in scene.model.model.diffusion_model.named_modules()
            if half in name and not list(part.children()) and list(part.parameters())
        ]

        def count(module, inputs, out, half=half):
            names[half] += 1

        handles.append(layers[0].register_forward_hook(count))

    def counted(**window):
        names.update(dict.fromkeys(names, 0))
        run(edit(scene.model, scene.direction, **window), scene, steps=1)
        return dict(names)

    try:
        inside, outside = counted(), counted(start_percent=0.5)
    finally:
        for handle in handles:
            handle.remove()
    assert outside == {"input_blocks": 1, "output_blocks": 1}
    assert inside == {"input_blocks": 1 if has_middle_patch(scene) else 2, "output_blocks": 2}


def has_middle_patch(scene):
    """Hosts before 0.24 let no node see the middle of their U-Nets; there the whole network runs again."""
    import inspect

    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = scene.model.model.diffusion_model
    return not isinstance(network, UNetModel) or "middle_block_after_patch" in inspect.getsource(UNetModel)
