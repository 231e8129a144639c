"""Convert Guidance File: a published Lightning checkpoint is loaded with two nodes, and nothing in it runs."""

import sys
import types
from pathlib import Path

import golden_files
import pytest
import torch

pytestmark = pytest.mark.host
FOLDER = "ffhq_autoenc"


@pytest.fixture
def lightning(pack_nodes):
    """last.ckpt in a folder of its own: a network twice, and an object of a module that is gone."""
    import folder_paths

    from pack.models.diffae.network import DiffAEConfig, DiffusionAutoencoder

    sizes = {"model_channels": 32, "out_channels": 3, "num_res_blocks": 1, "channel_mult": (1, 2), "attention": (2,)}
    config = DiffAEConfig(**sizes, encoder_mult=(1, 2, 2), encoder_res_blocks=1, semantic=64)
    trained, average = (golden_files.fill(DiffusionAutoencoder(config), name) for name in "ab")
    gone = types.ModuleType("gone_lightning")
    gone.Config = type("Config", (), {"__module__": "gone_lightning"})
    sys.modules["gone_lightning"] = gone
    weights = {f"model.{key}": value for key, value in trained.state_dict().items()}
    weights |= {f"ema_model.{key}": value for key, value in average.state_dict().items()}
    path = Path(folder_paths.get_folder_paths("guidance_models")[0]) / FOLDER / "last.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": weights, "hyper_parameters": gone.Config()}, path)
    del sys.modules["gone_lightning"]
    folder_paths.filename_list_cache.clear()
    yield path, average.state_dict()
    for left in path.parent.iterdir():
        left.unlink()
    path.parent.rmdir()
    folder_paths.filename_list_cache.clear()


def test_a_published_checkpoint_is_loaded_after_one_node_and_nothing_in_it_runs(lightning, execute, pack_nodes):
    from safetensors.torch import load_file

    path, average = lightning
    (options,) = [entry.options for entry in pack_nodes["Guidance_ConvertFile"].define_schema().inputs]
    assert f"guidance_models/{FOLDER}/last.ckpt" in options
    said = pack_nodes["Guidance_LoadDiffusionAutoencoder"].validate_inputs(model_name=f"{FOLDER}/last.ckpt")
    assert "Convert Guidance File makes a safetensors file of it" in said
    (report,) = execute("Guidance_ConvertFile", file_name=f"guidance_models/{FOLDER}/last.ckpt")
    assert "left out: model. (ema_model. is the average)" in report
    found = load_file(path.with_suffix(".safetensors"))
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in average.items()}
    assert all(torch.equal(value, average[key]) for key, value in found.items())
    import folder_paths

    folder_paths.filename_list_cache.clear()
    execute("Guidance_LoadDiffusionAutoencoder", model_name=f"{FOLDER}/last.safetensors")
    assert "gone_lightning" not in sys.modules


def test_a_file_is_converted_once(lightning, execute):
    execute("Guidance_ConvertFile", file_name=f"guidance_models/{FOLDER}/last.ckpt")
    with pytest.raises(ValueError, match=r"last.safetensors exists already.*input 'file_name'"):
        execute("Guidance_ConvertFile", file_name=f"guidance_models/{FOLDER}/last.ckpt")


@pytest.mark.parametrize(
    "name", ["guidance_models/scenes_unet.safetensors", "guidance_models/../x.ckpt", "checkpoints/a.ckpt", ""]
)
def test_nothing_but_the_packs_own_pickles_can_be_named(execute, name):
    with pytest.raises(ValueError, match=r"there is no file.*input 'file_name'"):
        execute("Guidance_ConvertFile", file_name=name)
