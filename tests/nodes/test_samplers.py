"""Inversion, respacing and upsampling in the host, on eps, v and flow models."""

import json

import pytest
import torch

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def eps_model(pack_nodes):
    with torch.inference_mode():
        given = {"model_name": "scenes_unet.safetensors", "clip_denoised": False, "schedule": "auto", "heads": "auto"}
        return pack_nodes["Guidance_LoadModel"].execute(**given).args[0]


@pytest.fixture(scope="module")
def v_model(eps_model):
    """The same model as a v-predicting one: v = sqrt(ab) eps - sqrt(1 - ab) x0."""
    import comfy.model_sampling
    from comfy.patcher_extension import WrappersMP

    def to_v(executor, x, t, *args, **kwargs):
        eps = executor(x, t, *args, **kwargs)
        sigma = table[t.long()][:, None, None, None]
        signal = 1 / (1 + sigma**2) ** 0.5
        x0 = (x - signal * sigma * eps) / signal
        return signal * eps - signal * sigma * x0

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    model = eps_model.clone()
    sampling = Sampling()
    table = model.get_model_object("model_sampling").sigmas.clone()
    sampling.set_sigmas(table)
    model.add_object_patch("model_sampling", sampling)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "to_v", to_v)
    return model


@pytest.fixture(scope="module")
def flow_model(eps_model):
    """The same model as a flow: x = X / (1 + sigma), s = sigma / (1 + sigma), exact and untrained."""
    import comfy.model_sampling

    ve = eps_model.get_model_object("model_sampling")

    class Sampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        def old(self, s):
            return comfy.model_sampling.reshape_sigma(s / (1 - s), 4)

        def calculate_input(self, s, x):
            sigma = self.old(s)
            return x * (1 + sigma) / (1 + sigma**2) ** 0.5

        def calculate_denoised(self, s, eps, x):
            sigma = self.old(s)
            return x * (1 + sigma) - sigma * eps

        def timestep(self, s):
            return ve.timestep(s / (1 - s))

    model = eps_model.clone()
    sampling = Sampling()
    sampling.set_parameters(shift=1.0, timesteps=1000, multiplier=1)
    sampling.sigmas = ve.sigmas / (1 + ve.sigmas)  # the old chain ends a little below s = 1
    model.add_object_patch("model_sampling", sampling)
    return model


def picture():
    from training import scenes

    image = scenes.render(scenes.draw(2, torch.Generator().manual_seed(5))).image
    return (image.movedim(1, -1) + 1) / 2


def drawn_again(model, noise, sigmas, execute):
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    (positive,) = execute("Guidance_ClassConditioning", model=model, class_label="")
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    with torch.inference_mode():
        latent = {"samples": torch.zeros(2, 3, 32, 32)}
        return SamplerCustomAdvanced.execute(noise, guider, comfy.samplers.ksampler("euler"), sigmas, latent).args[0]


@pytest.mark.parametrize("kind", ["eps_model", "v_model"])
def test_a_picture_comes_back_from_its_own_noise(kind, request, execute):
    model, image = request.getfixturevalue(kind), picture()
    noise, _ = execute("Guidance_DDIMInversion", model=model, image=image, steps=60)
    (sigmas,) = execute("Guidance_RespacedSigmas", model=model, respacing="60")
    again = drawn_again(model, noise, sigmas, execute)["samples"]
    assert (again - (image.movedim(-1, 1) * 2 - 1)).square().mean() < 0.02


def test_v_and_eps_models_invert_to_the_same_noise(eps_model, v_model, execute):
    models = (eps_model, v_model)
    codes = [execute("Guidance_DDIMInversion", model=model, image=picture(), steps=8)[0].x_T for model in models]
    torch.testing.assert_close(*codes, rtol=0, atol=2e-3 * codes[0].abs().max().item())


def test_a_picture_comes_back_from_its_own_noise_in_a_flow_model(flow_model, execute):
    import comfy.samplers

    image = picture()
    noise, _ = execute("Guidance_DDIMInversion", model=flow_model, image=image, steps=60)
    sigmas = comfy.samplers.calculate_sigmas(flow_model.get_model_object("model_sampling"), "simple", 60)
    again = drawn_again(flow_model, noise, sigmas, execute)["samples"]
    assert (again - (image.movedim(-1, 1) * 2 - 1)).square().mean() < 0.02


def test_the_latent_form_of_the_code_starts_an_advanced_ksampler_without_added_noise(eps_model, execute, comfy):
    import comfy.sample

    noise, latent = execute("Guidance_DDIMInversion", model=eps_model, image=picture(), steps=10)
    (sigmas,) = execute("Guidance_RespacedSigmas", model=eps_model, respacing="10")
    (positive,) = execute("Guidance_ClassConditioning", model=eps_model, class_label="")
    with torch.inference_mode():
        by_latent = comfy.sample.sample_custom(
            eps_model,
            torch.zeros_like(latent["samples"]),
            1.0,
            comfy.samplers.ksampler("euler"),
            sigmas,
            positive,
            [],
            latent["samples"],
        )
    by_noise = drawn_again(eps_model, noise, sigmas, execute)["samples"]
    torch.testing.assert_close(by_latent, by_noise, rtol=0, atol=1e-3)


def test_the_code_serves_larger_batches_and_refuses_other_sizes(eps_model, execute):
    noise, _ = execute("Guidance_DDIMInversion", model=eps_model, image=picture(), steps=3)
    three = noise.generate_noise({"samples": torch.zeros(3, 3, 32, 32)})
    assert torch.equal(three[2], three[0]) and not torch.equal(three[1], three[0])
    with pytest.raises(ValueError, match="x_T was made for latents of shape"):
        noise.generate_noise({"samples": torch.zeros(1, 3, 64, 64)})


def test_the_published_samplers_refuse_flow_models_in_words(flow_model, execute):
    with pytest.raises(ValueError, match="a model trained on a chain of noise levels.*input 'respacing'"):
        execute("Guidance_RespacedSigmas", model=flow_model, respacing="ddim25")
    (sampler,) = execute("Guidance_DDIMSampler")
    with pytest.raises(ValueError, match="not a flow model"):
        import comfy.samplers

        (positive,) = execute("Guidance_ClassConditioning", model=flow_model, class_label="")
        guider = comfy.samplers.CFGGuider(flow_model)
        guider.inner_set_conds({"positive": positive})
        with torch.inference_mode():
            guider.sample(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32), sampler, torch.tensor([0.9, 0.0]))


def test_a_latent_model_needs_its_vae_and_a_conditioning(eps_model, execute):
    from types import SimpleNamespace

    import comfy.latent_formats

    class Foreign:
        """A MODEL that the host loaded."""

        model = SimpleNamespace(latent_format=comfy.latent_formats.SD15())
        get_model_object = eps_model.get_model_object

    with pytest.raises(ValueError, match="this model needs a CONDITIONING.*input 'conditioning'"):
        execute("Guidance_DDIMInversion", model=Foreign(), image=picture(), steps=3)
    with pytest.raises(ValueError, match="this model works on latents.*input 'vae'"):
        execute("Guidance_DDIMInversion", model=Foreign(), image=picture(), steps=3, conditioning=[[None, {}]])


@pytest.fixture(scope="module")
def upsampler(pack_nodes):
    """A random upsampler in ADM's layout, six channels in."""
    from pathlib import Path

    import folder_paths
    import golden_files
    from safetensors.torch import save_file

    from pack.models.adm import network

    config = network.UNetConfig(
        model_channels=16,
        in_channels=6,
        out_channels=6,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention=(2,),
        num_heads=2,
        groups=4,
        num_classes=5,
    )
    built = golden_files.fill(network.UNet(config), "upsampler.")
    folder = Path(folder_paths.get_folder_paths("guidance_models")[0])
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {
        "architecture": "adm_unet",
        "config": json.dumps(vars(config)),
        "image_size": "32",
        "class_names": json.dumps(["a", "b", "c", "d"]),
        "no_class": "4",
    }
    save_file(built.state_dict(), folder / "upsampler.safetensors", metadata)
    folder_paths.filename_list_cache.clear()
    with torch.inference_mode():
        given = {"model_name": "upsampler.safetensors", "clip_denoised": True, "schedule": "auto", "heads": "auto"}
        return pack_nodes["Guidance_LoadModel"].execute(**given).args[0], built


def test_an_upsampler_sees_the_small_picture_enlarged_beside_its_input(upsampler, execute, comfy):
    import comfy.samplers

    model, network = upsampler
    image = torch.rand(2, 16, 16, 3)
    (positive,) = execute("Guidance_ClassConditioning", model=model, class_label="b")
    (positive,) = execute("Guidance_UpscaleConditioning", conditioning=positive, image=image)
    x = torch.randn(2, 3, 32, 32)
    sigma = model.get_model_object("model_sampling").sigmas[500]
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    seen = {}

    def look(model, x, sigmas, extra_args, callback, disable):
        seen["denoised"] = model(x, sigmas[0].expand(len(x)), **extra_args)
        seen["x"] = x
        return x

    with torch.inference_mode():
        guider.sample(x, torch.zeros_like(x), comfy.samplers.KSAMPLER(look), torch.stack([sigma, sigma * 0]))
    low_res = (image * 255).round().movedim(-1, 1) / 127.5 - 1
    large = torch.nn.functional.interpolate(low_res, (32, 32), mode="bilinear", align_corners=False)
    inputs = torch.cat([seen["x"] / (1 + sigma**2) ** 0.5, large], dim=1)
    eps = network(inputs, torch.full((2,), 500), torch.tensor([1, 1]))[:, :3]
    torch.testing.assert_close(seen["denoised"], (seen["x"] - sigma * eps).clamp(-1, 1), rtol=0, atol=1e-4)


def test_an_upsampler_without_a_small_picture_says_what_to_connect(upsampler, execute, comfy):
    import comfy.sample

    (positive,) = execute("Guidance_ClassConditioning", model=upsampler[0], class_label="b")
    with pytest.raises(ValueError, match="connect Upscale Conditioning"), torch.inference_mode():
        latent = torch.zeros(1, 3, 32, 32)
        comfy.sample.sample(upsampler[0], latent, 2, 1.0, "euler", "normal", positive, [], latent, seed=0)


def test_the_classifiers_graph_is_freed_at_every_step(eps_model, execute, pack_nodes):
    """The number of living tensors, and their bytes, are the same after step 5 and after step 50."""
    import gc

    from pack.guidance.sampling import sample_ddim
    from pack.nodes.host.guides.classifier import classifier_gradient
    from pack.nodes.host.sampling import published_sampler, respaced_sigmas

    (classifier,) = execute("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")
    alive = {}

    def loop(predict, x, sigmas, noise, gradient, on_step):
        def count(index, x, denoised, sigma):
            on_step(index, x, denoised, sigma)
            if index not in (5, 50):
                return
            gc.collect()
            tensors = [entry for entry in gc.get_objects() if isinstance(entry, torch.Tensor)]
            alive[index] = (len(tensors), sum(tensor.numel() * tensor.element_size() for tensor in tensors))

        return sample_ddim(predict, x, sigmas, noise, gradient=gradient, on_step=count)

    import comfy.samplers

    with torch.inference_mode():
        gradient = classifier_gradient(classifier, torch.tensor([0, 1]), 2.0)
        (positive,) = execute("Guidance_ClassConditioning", model=eps_model, class_label="")
        guider = comfy.samplers.CFGGuider(eps_model)
        guider.inner_set_conds({"positive": positive})
        zeros = torch.zeros(2, 3, 32, 32)
        guider.sample(zeros, zeros, published_sampler(loop, True, gradient), respaced_sigmas(eps_model, "51"), seed=0)
    assert alive[50] == alive[5]
