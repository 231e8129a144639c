"""The golden trajectories inside the host: our loaders, the stock SamplerCustomAdvanced, injected noise."""

import json
from functools import partial

import adm_golden
import asyrp_golden
import golden_files
import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.host


class Injected:
    """NOISE that is a given tensor."""

    def __init__(self, noise):
        self.noise, self.seed = noise, 0

    def generate_noise(self, latent):
        return self.noise


@pytest.fixture(scope="module")
def store(pack_nodes):
    """Puts a network into a folder of the loaders, as one of our own files; returns its name."""
    import folder_paths

    def put(kind, name, architecture, network, **facts):
        from pathlib import Path

        folder = Path(folder_paths.get_folder_paths(f"guidance_{kind}")[0])
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {"architecture": architecture, "config": json.dumps(vars(network.config)), **facts}
        save_file(network.state_dict(), folder / name, metadata)
        folder_paths.filename_list_cache.clear()
        return name

    return put


@pytest.fixture
def sample(comfy):
    """The stock SamplerCustomAdvanced without CFG."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    def run(model, positive, sampler, sigmas, noise, samples=None):
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({"positive": positive})
        samples = torch.zeros_like(noise) if samples is None else samples
        with torch.inference_mode():
            return SamplerCustomAdvanced.execute(Injected(noise), guider, sampler, sigmas, {"samples": samples}).args[0]

    return run


@pytest.fixture(scope="module", params=adm_golden.CASES)
def adm(request, store, pack_nodes):
    run = adm_golden.Published(request.param)
    facts = {
        "schedule": run.arguments["diffusion"]["noise_schedule"],
        "image_size": "16",
        "class_names": json.dumps([f"class {k}" for k in range(run.unet.config.num_classes or 0)]),
    }
    classes = [f"class {k}" for k in range(run.arguments["num_classes"])]
    model_name = store("models", f"{request.param}.safetensors", "adm_unet", run.unet, **facts)
    facts["class_names"], facts["class_groups"] = json.dumps(classes), json.dumps([len(classes)])
    classifier_name = store("classifiers", f"{request.param}.safetensors", "adm_classifier", run.classifier, **facts)
    with torch.inference_mode():
        clip = run.arguments["clip_denoised"]
        given = {"clip_denoised": clip, "schedule": "auto", "heads": "auto"}
        run.model = pack_nodes["Guidance_LoadModel"].execute(model_name=model_name, **given).args[0]
        run.host_classifier = pack_nodes["Guidance_LoadClassifier"].execute(classifier_name=classifier_name).args[0]
    return run


SAMPLERS = {"ddpm": "sample_ddpm", "ddim": "sample_ddim", "ddim_eta1": "sample_ddim"}


@pytest.mark.parametrize("guided", ["plain", "guided"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_hosts_sampling_gives_the_published_trajectory(adm, name, guided, sample, execute):
    from pack.guidance import sampling
    from pack.nodes.host.guides.classifier import classifier_gradient
    from pack.nodes.host.sampling import published_sampler

    loop = getattr(sampling, SAMPLERS[name])
    loop = partial(loop, eta=1.0) if name == "ddim_eta1" else loop
    gradient = None
    if guided == "guided":
        gradient = classifier_gradient(adm.host_classifier, adm.golden["y"], adm.arguments["classifier_scale"])
    sampler = published_sampler(loop, adm.arguments["clip_denoised"], gradient, noise=adm.noise)
    (sigmas,) = execute(
        "Guidance_RespacedSigmas", model=adm.model, respacing=adm.arguments["diffusion"]["timestep_respacing"]
    )
    positive = [[torch.zeros(1, 1, 1), {}]]
    if adm.unet.config.num_classes:
        labels = "\n".join(str(y) for y in adm.golden["y"].tolist())
        (positive,) = execute("Guidance_ClassConditioning", model=adm.model, class_label=labels)
    final = sample(adm.model, positive, sampler, sigmas, adm.golden["x_T"])["samples"]
    error = golden_files.relative_error(final, adm.golden[f"{name}.{guided}.final"])
    assert error < adm.tolerance(guided)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("node", ["Guidance_DDPMSampler", "Guidance_DDIMSampler"])
def test_the_sampler_nodes_clip_where_the_published_code_does(adm, node, clip, sample, execute):
    (sampler,) = execute(node, clip_denoised=clip)
    (sigmas,) = execute("Guidance_RespacedSigmas", model=adm.model, respacing="5")
    positive = [[torch.zeros(1, 1, 1), {}]]
    if adm.unet.config.num_classes:
        (positive,) = execute("Guidance_ClassConditioning", model=adm.model, class_label="3")
    final = sample(adm.model, positive, sampler, sigmas, adm.golden["x_T"])["samples"]
    assert (final.abs().max() <= 1) == (clip or adm.arguments["clip_denoised"])


def test_the_last_step_of_a_learned_variance_run_differs_from_the_fixed_ones(adm, sample, execute):
    positive = [[torch.zeros(1, 1, 1), {}]]
    if adm.unet.config.num_classes:
        (positive,) = execute("Guidance_ClassConditioning", model=adm.model, class_label="3")
    (sigmas,) = execute("Guidance_RespacedSigmas", model=adm.model, respacing="5")

    def run(variance):
        (sampler,) = execute("Guidance_DDPMSampler", variance=variance, clip_denoised=True)
        return sample(adm.model, positive, sampler, sigmas, adm.golden["x_T"])["samples"]

    if not adm.arguments["diffusion"]["learn_sigma"]:
        with pytest.raises(ValueError, match="this model predicts none"):
            run("learned")
        assert torch.equal(run("auto"), run("fixed large"))
        return
    assert torch.equal(run("auto"), run("learned"))
    assert not torch.equal(run("learned"), run("fixed small"))
    assert not torch.equal(run("fixed large"), run("fixed small"))


@pytest.fixture(scope="module", params=asyrp_golden.CASES)
def asyrp(request, store, pack_nodes):
    run = asyrp_golden.Published(request.param)
    family = "ddpm_unet" if run.arguments["family"] == "ddpm" else "adm_unet"
    facts = {"schedule": "linear", "image_size": "16"}
    name = store("models", f"{request.param}.safetensors", family, run.network, **facts)
    with torch.inference_mode():
        given = {"model_name": name, "clip_denoised": False, "schedule": "auto", "heads": "auto"}
        run.model = pack_nodes["Guidance_LoadModel"].execute(**given).args[0]
    return run


def test_the_inversion_node_gives_the_published_code(asyrp, execute):
    noise, latent = execute(
        "Guidance_DDIMInversion",
        model=asyrp.model,
        image=(asyrp.golden["image"].movedim(1, -1) + 1) / 2,
        respacing=f"linspace{asyrp.arguments['steps']}",
    )
    x_T = noise.generate_noise(latent)
    assert golden_files.relative_error(x_T, asyrp.golden["inverted"]) < 1e-4
    scaled = latent["samples"] / asyrp.scale(asyrp.rising[-1])
    assert golden_files.relative_error(scaled, asyrp.golden["inverted"]) < 1e-4


def test_the_hosts_sampling_gives_asyrps_plain_trajectory(asyrp, sample, execute):
    from pack.guidance.sampling import sample_ddim
    from pack.nodes.host.sampling import published_sampler

    (sigmas,) = execute("Guidance_RespacedSigmas", model=asyrp.model, respacing=f"linspace{asyrp.arguments['steps']}")
    positive = [[torch.zeros(1, 1, 1), {}]]
    cut = asyrp.boosted
    first = published_sampler(sample_ddim, False, noise=asyrp.noise)
    x = sample(asyrp.model, positive, first, sigmas[: cut + 1], asyrp.golden["inverted"])["samples"]
    second = published_sampler(partial(sample_ddim, eta=1.0), False, noise=lambda k: asyrp.noise(cut + k))
    x = sample(asyrp.model, positive, second, sigmas[cut:], torch.zeros_like(x), x)["samples"]
    assert golden_files.relative_error(x, asyrp.golden["sample.plain"]) < 1e-5
