"""The API workflow that converts a published file, on a file as training loops leave them."""

import json
import sys
import types

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from models.adm.network import UNet, UNetConfig

pytestmark = pytest.mark.server


@pytest.fixture
def published(server):
    """last.ckpt beside the server's models: weights, and an object of a module that is gone."""
    gone = types.ModuleType("gone_loop")
    gone.Config = type("Config", (), {"__module__": "gone_loop"})
    sys.modules["gone_loop"] = gone
    network = UNet(UNetConfig(model_channels=32, out_channels=6, num_res_blocks=1, channel_mult=(1, 2), attention=(2,)))
    path = server.base / "models" / "guidance_models" / "last.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": network.state_dict(), "hyper_parameters": gone.Config()}, path)
    del sys.modules["gone_loop"]
    yield path, network.state_dict()
    path.unlink()


def test_the_workflow_that_converts_writes_the_weights_and_says_where(server, published):
    path, state = published
    prompt = json.loads((ROOT / "workflows" / "api" / "convert_file.json").read_text("utf-8"))
    (said,) = server.run(prompt)["2"]["text"]
    (written,) = [file for file in path.parent.iterdir() if file.name in said and file.suffix == ".safetensors"]
    found = load_file(written)
    written.unlink()
    assert found.keys() == state.keys() and all(torch.equal(value, state[key]) for key, value in found.items())
