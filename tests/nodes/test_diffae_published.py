"""phizaz/diffae's golden loops inside the host: our nodes, the stock SamplerCustomAdvanced, injected noise."""

import json
from pathlib import Path

import golden_files
import pytest
import torch
from diffae_golden import Published
from safetensors.torch import save_file

pytestmark = pytest.mark.host


class Injected:
    """NOISE that is a given tensor."""

    def __init__(self, noise):
        self.noise, self.seed = noise, 0

    def generate_noise(self, latent):
        return self.noise


@pytest.fixture(scope="module")
def run(pack_nodes):
    """The golden file in the folder of the loaders, laid out as Lightning's checkpoints are, and loaded."""
    import folder_paths

    run = Published()
    width = run.config.semantic
    run.mean, run.std = golden_files.draw((1, width), 1), golden_files.draw((1, width), 2).abs() + 0.5
    weights = {f"ema_model.{key}": value.clone() for key, value in run.network.state_dict().items()}
    weights |= {key.removeprefix("ema_"): torch.zeros_like(value) for key, value in weights.items()}
    weights |= {"x_T": golden_files.draw((4, 3, 16, 16), 3), "conds_mean": run.mean, "conds_std": run.std}
    folder = Path(folder_paths.get_folder_paths("guidance_models")[0])
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"schedule": "linear", **run.metadata}
    facts["config"] = json.dumps(facts["config"])
    save_file(weights, folder / "diffae_golden.safetensors", facts)
    folder_paths.filename_list_cache.clear()
    with torch.inference_mode():
        load = pack_nodes["Guidance_LoadDiffusionAutoencoder"].execute
        run.model, run.codec, run.vae = load(model_name="diffae_golden.safetensors").args
    run.image = (run.golden["image"].movedim(1, -1) + 1) / 2
    return run


@pytest.fixture
def semantic(run, execute):
    return execute("Guidance_SemanticEncode", codec=run.codec, image=run.image)[0]


def from_the_published_start(model, noise, sigma):
    """Noise from which the host's own samplers start at x_T sqrt(1 + sigma^2): below the model's largest sigma they
    multiply by sigma alone, and random weights turn that 1e-4 into 1e-2."""
    one = torch.ones(1, 1, 1, 1)
    scaled = model.get_model_object("model_sampling").noise_scaling(sigma, one, torch.zeros_like(one), False)
    return noise * ((1 + sigma**2) ** 0.5 / scaled)


@pytest.fixture(params=["euler", "Guidance_DDIMSampler"])
def decode(request, run, semantic, execute):
    """What the stock node makes of a noise and the golden codes."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    def run_sampler(noise):
        (positive,) = execute("Guidance_ApplySemantic", semantic=semantic)
        (sigmas,) = execute("Guidance_RespacedSigmas", model=run.model, respacing=run.respacing)
        (latent,) = execute("Guidance_EmptyPixelLatent", width=16, height=16, batch_size=len(run.image))
        if request.param == "euler":
            sampler = comfy.samplers.sampler_object("euler")
            noise = from_the_published_start(run.model, noise, sigmas[0])
        else:
            (sampler,) = execute(request.param)
        guider = comfy.samplers.CFGGuider(run.model)
        guider.inner_set_conds({"positive": positive})
        with torch.inference_mode():
            return SamplerCustomAdvanced.execute(Injected(noise), guider, sampler, sigmas, latent).args[0]["samples"]

    return run_sampler


def test_semantic_encode_gives_the_published_codes(run, semantic):
    assert golden_files.relative_error(semantic.z_sem, run.golden["z_sem"]) < 2e-6


def test_stochastic_encode_gives_the_published_code(run, semantic, execute):
    given = {"model": run.model, "semantic": semantic, "image": run.image, "steps": run.arguments["T"]}
    noise, latent = execute("Guidance_StochasticEncode", **given)
    x_T = noise.generate_noise(latent)
    assert golden_files.relative_error(x_T, run.golden["x_T"]) < 5e-5
    sigma_max = float(run.model.get_model_object("model_sampling").sigma_max)
    assert golden_files.relative_error(latent["samples"] / (1 + sigma_max**2) ** 0.5, run.golden["x_T"]) < 5e-5


def test_encoding_and_decoding_gives_the_published_reconstruction(run, semantic, decode, execute):
    given = {"model": run.model, "semantic": semantic, "image": run.image, "steps": run.arguments["T"]}
    noise, latent = execute("Guidance_StochasticEncode", **given)
    assert golden_files.relative_error(decode(noise.generate_noise(latent)), run.golden["reconstruction"]) < 1e-3


def test_decoding_a_given_noise_gives_the_published_picture(run, decode):
    assert golden_files.relative_error(decode(run.golden["decode.x_T"]), run.golden["decode.image"]) < 1e-4


def test_sample_semantic_gives_the_published_codes(run, execute, monkeypatch):
    import pack.nodes.host.semantic.codec as host

    monkeypatch.setattr(host, "initial_noise", lambda *_: run.golden["latent.noise"])
    (semantic, _) = execute("Guidance_SampleSemantic", codec=run.codec, batch_size=2, steps=run.arguments["T"])
    codes = (semantic.z_sem - run.mean) / run.std
    assert golden_files.relative_error(codes, run.golden["latent.sample"]) < 2e-6
