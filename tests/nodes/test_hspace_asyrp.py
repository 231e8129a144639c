"""The nodes of h-space give Asyrp's own trajectories, as its golden files hold them."""

import json
from functools import partial
from pathlib import Path

import asyrp_golden
import pytest
import torch
from hspace_edits import direction_folder, load_direction, moment
from hspace_scenes import off, random
from safetensors.torch import save_file

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def folder(pack_nodes):
    return direction_folder()


@pytest.fixture
def load(execute):
    return partial(load_direction, execute)


class Injected:
    """NOISE that is a given tensor."""

    seed = 0

    def __init__(self, noise):
        self.noise = noise

    def generate_noise(self, latent):
        return self.noise


@pytest.fixture(scope="module", params=asyrp_golden.CASES)
def asyrp(request, folder, pack_nodes):
    """A golden file with its MODEL and its delta block in the loaders' folders."""
    import folder_paths
    from conftest import run_node

    published = asyrp_golden.Published(request.param)
    family = "ddpm_unet" if published.arguments["family"] == "ddpm" else "adm_unet"
    config = json.dumps(vars(published.network.config))
    metadata = {"architecture": family, "config": config, "schedule": "linear", "image_size": "16"}
    models = Path(folder_paths.get_folder_paths("guidance_models")[0])
    models.mkdir(parents=True, exist_ok=True)
    save_file(published.network.state_dict(), models / f"hspace {request.param}.safetensors", metadata)
    given = {"model_name": f"hspace {request.param}.safetensors", "clip_denoised": False}
    published.model = run_node(pack_nodes, "Guidance_LoadModel", **given)[0]
    delta = asyrp_golden.delta_network(published.arguments, 64, 128)
    state = {f"layer_0.{key}": value for key, value in delta.state_dict().items()}
    torch.save({"0": state, "optimizer": {}}, folder / f"{request.param}.pth")
    return published


@pytest.mark.parametrize("path", ["plain", "edited"])
def test_the_nodes_give_the_published_trajectory(asyrp, path, execute, load, monkeypatch):
    """hs_coeff is the strength; t_edit and t_boost are percents of the 1000 training steps."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    from pack.nodes.host import sampling

    arguments, case = asyrp.arguments, asyrp.arguments["case"]
    keep, move = arguments["hs_coeff"]
    assert keep == 1
    last = len(asyrp.schedule.sigmas) - 1
    percents = {name: 1 - arguments[name] / last for name in ("t_edit", "t_boost")}
    model = asyrp.model
    if path == "edited":
        hspace = load(f"{case}.pth", train_steps=arguments["steps"])
        options = {"strength": move, "start_percent": 0.0, "end_percent": percents["t_edit"]}
        (model,) = execute("Guidance_HSpaceEdit", model=model, hspace=hspace, **options)
    (sampler,) = execute("Guidance_AsyrpSampler", model=model, boost_percent=percents["t_boost"])
    (sigmas,) = execute("Guidance_RespacedSigmas", model=model, respacing=f"linspace{arguments['steps']}")
    monkeypatch.setattr(sampling, "StepNoise", lambda *_: asyrp.noise)
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": [[torch.zeros(1, 1, 1), {}]]})
    x_T = asyrp.golden["inverted"]
    with torch.inference_mode():
        latent = {"samples": torch.zeros_like(x_T)}
        final = SamplerCustomAdvanced.execute(Injected(x_T), guider, sampler, sigmas, latent).args[0]["samples"]
    assert off(final, asyrp.golden[f"sample.{path}"]) < 1e-5
    others = {"plain": "edited", "edited": "plain"}
    assert off(final, asyrp.golden[f"sample.{others[path]}"]) > 1e-2


@pytest.mark.parametrize("train_steps", [0, 40])
def test_train_steps_spread_a_delta_block_over_the_run(asyrp, train_steps, load):
    (found,) = load(f"{asyrp.arguments['case']}.pth", train_steps=train_steps)
    h, emb = random(2, 64, 4, 4, seed=1), random(2, 128, seed=2)
    with torch.inference_mode():
        ten, forty = (found.delta_h(h, emb, moment(steps)) for steps in (10, 40))
    assert torch.allclose(ten, (4 if train_steps else 1) * forty)
