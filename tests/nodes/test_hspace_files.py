"""Directions and delta blocks come out of files, go back into them, and are refused in words where they don't fit."""

from functools import partial

import pytest
import torch
from hspace_edits import block, composed, direction_folder, load_direction, moment
from hspace_scenes import random, run
from safetensors.torch import save_file

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def folder(pack_nodes):
    return direction_folder()


@pytest.fixture
def load(execute):
    return partial(load_direction, execute)


@pytest.fixture
def save(pack_nodes, folder):
    """Save HSpace Direction; the names of the files."""
    import folder_paths

    def written(edits, prefix):
        with torch.inference_mode():
            output = pack_nodes["Guidance_SaveHSpaceDirection"].execute(hspace=edits, filename_prefix=prefix)
        folder_paths.filename_list_cache.clear()
        return output.ui["text"]

    return written


LAYOUTS = ["published", "bare torch", "safetensors", "numbered safetensors"]


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_of_delta_blocks_load(folder, load, layout, norm_first):
    network, state = block(norm_first)
    name = f"{layout} {norm_first}" + (".safetensors" if "safetensors" in layout else ".pth")
    if layout == "published":
        torch.save({"0": state, "optimizer": {"state": {}, "param_groups": []}, "scheduler": {}}, folder / name)
    elif layout == "bare torch":
        torch.save(network.state_dict(), folder / name)
    else:
        save_file({("0." if "numbered" in layout else "") + key: value for key, value in state.items()}, folder / name)
    (found,) = load(name, train_steps=0)
    h, emb = random(2, 64, 4, 4, seed=1), random(2, 128, seed=2)
    with torch.inference_mode():
        assert torch.equal(found.delta_h(h, emb, moment()), network(h, emb))
        (spread,) = load(name, train_steps=40)
        assert torch.allclose(spread.delta_h(h, emb, moment(10)), 4 * network(h, emb))


def test_every_attribute_of_a_file_is_an_edit(folder, load):
    _, state = block(False)
    torch.save({"0": state, "1": {key: 2 * value for key, value in state.items()}}, folder / "two.pth")
    assert len(load("two.pth")) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("foreign", r"foreign\.safetensors holds no delta block of Asyrp.*first keys are a, b.*input 'direction_name'"),
        (
            "partial",
            r"a part of a delta block only; conv1.weight or temb_proj.weight is missing.*input 'direction_name'",
        ),
        ("without a bias", r"a delta block of another form:.*conv2.bias.*input 'direction_name'"),
        ("empty direction", r"says it is a direction, but delta_h \[n C h w\] is missing.*input 'direction_name'"),
    ],
)
def test_files_that_are_none_are_refused_in_words(folder, load, fault, words):
    _, state = block(False)
    metadata = None
    if fault == "foreign":
        state = {"a": torch.ones(2), "b": torch.ones(3)}
    elif fault == "partial":
        state = {key: value for key, value in state.items() if "temb_proj" not in key}
    elif fault == "without a bias":
        del state["layer_0.conv2.bias"]
    else:
        metadata = {"kind": "hspace_edit", "form": "direction"}
    save_file(state, folder / f"{fault}.safetensors", metadata)
    with pytest.raises(ValueError, match=words):
        load(f"{fault}.safetensors")


def test_delta_blocks_of_another_width_or_family_are_refused_in_words(scenes, folder, load, edit):
    scene = scenes["scenes_unet"]
    embedding = 4 * scene.model.model.diffusion_model.network.config.model_channels
    for name, channels in (("narrow", scene.channels // 2), ("ddpm", scene.channels)):
        save_file(block(False, channels, embedding)[1], folder / f"{name}.safetensors")
    with pytest.raises(ValueError, match=rf"{scene.channels // 2} channels.* has {scene.channels};.*input 'hspace'"):
        edit(scene.model, *load("narrow.safetensors"))
    with pytest.raises(ValueError, match=r"'ddpm' is a delta block for DDPM networks, and .* is of the ADM family"):
        edit(scene.model, *load("ddpm.safetensors"))
    save_file(block(False, 128)[1], folder / "for pixels.safetensors")
    with pytest.raises(ValueError, match=r"DDPM networks, and this U-Net is of the Stable Diffusion family"):
        edit(scenes["unet"].model, *load("for pixels.safetensors"))


def test_a_saved_direction_comes_back_and_belongs_to_its_model(scenes, edit, load, save):
    from pack.nodes.host.hspace.edit import direction_edit
    from pack.nodes.host.model import owner_of

    scene = scenes["scenes_unet"]
    owner, fingerprint = owner_of(scene.model)
    delta = random(8, scene.channels, 4, 4, seed=11)
    (name,) = save([direction_edit(delta, name="smile", model=owner, fingerprint=fingerprint)], "round trip")
    (found,) = load(name)
    assert torch.equal(found.tensors["delta_h"], delta)
    assert (found.name, found.model, found.fingerprint) == ("smile", owner, fingerprint)
    assert save([found], "round trip") != [name]
    other = scenes["unet"].model
    with pytest.raises(ValueError, match=rf"'smile' was made for {owner}, .* is {owner_of(other)[0]}.*input 'hspace'"):
        edit(other, found)
    assert owner != owner_of(other)[0]


def test_a_lora_does_not_change_whose_direction_it_is(host, edit):
    from pack.nodes.host.hspace.edit import direction_edit
    from pack.nodes.host.model import owner_of

    owner, fingerprint = owner_of(host.model)
    model, _ = composed(host, "LoRA")
    run(model, host, steps=1)
    edit(model, direction_edit(host.direction, name="d", model=owner, fingerprint=fingerprint))
    run(host.model, host, steps=1)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_saved_delta_block_comes_back(folder, load, save, norm_first):
    network, state = block(norm_first)
    save_file(state, folder / "published.safetensors")
    (name,) = save(load("published.safetensors", train_steps=30), "block")
    (found,) = load(name, train_steps=7)
    h, emb = random(2, 64, 4, 4, seed=1), random(2, 128, seed=2)
    assert found.trained_steps == 30
    with torch.inference_mode():
        assert torch.allclose(found.delta_h(h, emb, moment(10)), 3 * network(h, emb))
