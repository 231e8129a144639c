"""The nodes as a graph uses them: in the host's inference mode, on the shipped models."""

import pytest
import torch

from pack.models.schedule import NoiseSchedule

pytestmark = pytest.mark.host
SHAPES = "circle\nsquare\ntriangle\nstar"


@pytest.fixture(scope="module")
def loaded(pack_nodes):
    with torch.inference_mode():
        given = {"model_name": "scenes_unet.safetensors", "clip_denoised": True, "schedule": "auto", "heads": "auto"}
        model, vae = pack_nodes["Guidance_LoadModel"].execute(**given).args
        (classifier,) = (
            pack_nodes["Guidance_LoadClassifier"].execute(classifier_name="scenes_classifier.safetensors").args
        )
    return model, vae, classifier


@pytest.fixture
def sample(execute, loaded):
    model, _, classifier = loaded

    def run(batch=2, **inputs):
        (latent,) = execute("Guidance_EmptyPixelLatent", width=32, height=32, batch_size=batch)
        given = {
            "model": model,
            "classifier": classifier,
            "latent_image": latent,
            "class_label": "heart",
            "steps": 5,
            "guidance_scale": 4.0,
            **inputs,
        }
        return execute("Guidance_ClassifierGuidedSampler", **given)[0]["samples"]

    return run


@pytest.mark.parametrize("algorithm", ["ddim", "ddpm"])
def test_guidance_raises_the_classifiers_own_log_probability(sample, loaded, algorithm):
    classifier = loaded[2]
    label = classifier.facts.class_names.index("heart")

    def score(samples):
        with torch.inference_mode(False), torch.no_grad():
            logits = classifier.logits(samples.clone(), torch.full((len(samples),), 0.0101))
            return logits[:, :8].log_softmax(1)[:, label].mean().item()

    plain = score(sample(8, algorithm=algorithm, guidance_scale=0.0, steps=10))
    guided = score(sample(8, algorithm=algorithm, guidance_scale=8.0, steps=10))
    assert guided > plain + 1


@pytest.mark.parametrize("algorithm", ["ddim", "ddpm"])
def test_image_i_of_a_batch_is_seed_plus_i_alone(sample, algorithm):
    batch = sample(3, seed=7, algorithm=algorithm, eta=0.5)
    alone = sample(1, seed=9, algorithm=algorithm, eta=0.5)
    torch.testing.assert_close(batch[2:], alone, rtol=0, atol=1e-3 * batch.abs().max().item())


def test_the_same_seed_gives_the_same_image_bit_for_bit(sample):
    assert torch.equal(sample(seed=3), sample(seed=3))
    assert not torch.equal(sample(seed=3), sample(seed=4))


def test_scale_zero_is_the_unguided_sampler_bit_for_bit(sample, loaded):
    assert torch.equal(sample(guidance_scale=0.0), sample(guidance_scale=0.0, class_label="star"))


def test_no_class_is_the_unguided_sampler(sample):
    assert torch.equal(sample(class_label="", guidance_scale=9.0), sample(guidance_scale=0.0))


def test_each_image_follows_its_own_label(sample):
    mixed = sample(2, class_label="heart\nstar")
    torch.testing.assert_close(mixed[:1], sample(2, class_label="heart")[:1], rtol=0, atol=1e-4)
    torch.testing.assert_close(mixed[1:], sample(2, class_label="star")[1:], rtol=0, atol=1e-4)


def test_ddim_is_the_stock_euler_sampler(execute, loaded, comfy):
    """DDIM with eta 0 in sigma space is Euler; both start from the same noise at sigma_max."""
    import comfy.sample
    import comfy.samplers

    model, _, classifier = loaded
    (latent,) = execute("Guidance_EmptyPixelLatent", width=32, height=32, batch_size=2)
    ours = execute(
        "Guidance_ClassifierGuidedSampler",
        model=model,
        classifier=classifier,
        class_label="",
        latent_image=latent,
        seed=5,
        steps=10,
    )[0]["samples"]
    (positive,) = execute("Guidance_ClassConditioning", model=model, class_label="")
    kept = [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    sigmas = torch.cat([NoiseSchedule.named("linear").sigmas[kept].flip(0).float(), torch.zeros(1)])
    noise = torch.stack([torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(5 + i)) for i in range(2)])
    with torch.inference_mode():
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({"positive": positive})
        theirs = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.ksampler("euler"), sigmas, seed=5)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_a_class_label_changes_the_conditional_model(execute, loaded, comfy):
    import comfy.sample

    model = loaded[0]
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def run(label):
        (positive,) = execute("Guidance_ClassConditioning", model=model, class_label=label)
        (negative,) = execute("Guidance_ClassConditioning", model=model, class_label="")
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, 4, 3.0, "euler", "normal", positive, negative, torch.zeros_like(noise), seed=0
            )

    assert not torch.equal(run("heart"), run("star"))
    assert torch.equal(run("heart"), run("6"))


def test_x0_is_clamped_unless_the_loader_is_told_otherwise(execute, loaded):
    def largest(model):
        with torch.inference_mode():
            noise = 100 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            functions = model.model_options.get("sampler_post_cfg_function", [])
            for function in functions:
                noise = function({"denoised": noise})
            return noise.abs().max().item()

    unclipped, _ = execute("Guidance_LoadModel", model_name="scenes_unet.safetensors", clip_denoised=False)
    assert largest(loaded[0]) == 1.0
    assert largest(unclipped) > 100


def test_weights_loaded_in_a_node_carry_gradients(loaded):
    network = loaded[2].patcher.model
    assert not any(parameter.is_inference() or parameter.requires_grad for parameter in network.parameters())


def test_the_vae_gives_the_picture_back(loaded, execute):
    vae = loaded[1]
    image = torch.rand(1, 32, 32, 3)
    with torch.inference_mode():
        torch.testing.assert_close(vae.decode(vae.encode(image)).float(), image, rtol=0, atol=1e-6)


def test_a_batch_that_was_taken_apart_keeps_its_noise(sample):
    """The host numbers the images of a part in `batch_index`."""
    whole = sample(3, seed=7, algorithm="ddpm")
    part = {"samples": torch.zeros(1, 3, 32, 32), "batch_index": [2]}
    alone = sample(latent_image=part, seed=7, algorithm="ddpm")
    torch.testing.assert_close(alone, whole[2:], rtol=0, atol=1e-3 * whole.abs().max().item())


def test_a_masked_part_is_neither_moved_nor_seen_free_by_the_classifier(sample):
    """Inpainting: what the mask protects stays, however strong the guidance."""
    picture = torch.full((1, 3, 32, 32), 0.3)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:] = 1
    latent = {"samples": picture, "noise_mask": mask}
    out = sample(latent_image=latent, guidance_scale=32.0, steps=10)
    torch.testing.assert_close(out[..., :16], picture[..., :16], rtol=0, atol=1e-6)
    assert (out[..., 16:] - picture[..., 16:]).abs().max() > 0.1


def test_the_stock_empty_latent_is_fitted_to_the_model(sample):
    stock = {"samples": torch.zeros(1, 4, 4, 4), "downscale_ratio_spacial": 8}
    assert torch.equal(sample(latent_image=stock), sample(1))


def test_weights_made_in_inference_mode_are_made_differentiable():
    from pack.nodes.host.gradients import autograd_on, make_differentiable

    with torch.inference_mode():
        layer = torch.nn.Linear(3, 2)
    with autograd_on():
        make_differentiable(layer)
        x = torch.ones(1, 3, requires_grad=True)
        (grad,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert grad.abs().sum() > 0 and not any(parameter.is_inference() for parameter in layer.parameters())


def test_the_hosts_own_schedule_node_keeps_our_noise_levels(loaded):
    import comfy.model_sampling

    ours = loaded[0].get_model_object("model_sampling").sigmas
    theirs = comfy.model_sampling.ModelSamplingDiscrete(loaded[0].model.model_config).sigmas
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_the_largest_seed_works(sample):
    assert sample(2, seed=2**64 - 1, algorithm="ddpm").isfinite().all()


def test_the_callers_model_is_left_as_it_was(sample, loaded):
    sample()
    assert loaded[0].get_additional_models() == []


def test_denoise_below_one_still_makes_the_asked_number_of_steps(loaded):
    from pack.nodes.host.sampling import respaced_sigmas

    sigmas = respaced_sigmas(loaded[0], "20", denoise=0.25)
    assert len(sigmas) == 21 and sigmas[-1] == 0
    assert sigmas[0] < respaced_sigmas(loaded[0], "20")[0] / 10


def test_an_empty_pixel_latent_has_the_pictures_size(execute):
    (latent,) = execute("Guidance_EmptyPixelLatent", width=48, height=40, batch_size=3)
    assert latent["samples"].shape == (3, 3, 40, 48) and latent["downscale_ratio_spacial"] == 1


def test_denoise_below_one_keeps_the_picture_in_sight(sample, loaded):
    picture = torch.ones(1, 3, 32, 32) * torch.tensor([0.8, -0.8, -0.8])[None, :, None, None]
    near = sample(latent_image={"samples": picture}, denoise=0.1, steps=40, guidance_scale=0.0)
    far = sample(latent_image={"samples": picture}, denoise=1.0, steps=40, guidance_scale=0.0)
    assert (near - picture).abs().mean() < 0.1 < (far - picture).abs().mean()


# --- what bad input gets: one sentence that names node, input, what came, what is needed


def refused(call, *parts):
    with pytest.raises(ValueError) as error:
        call()
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_class_is_answered_with_near_names(sample):
    refused(
        lambda: sample(class_label="hart"),
        "(input 'class_label' of Classifier-Guided Sampler)",
        "did you mean heart",
    )


def test_an_index_out_of_range_is_answered_with_the_range(sample):
    refused(lambda: sample(class_label="29"), "input 'class_label'", "29 classes run from 0 to 28")


@pytest.mark.parametrize(
    "label", ["n" * 500_000, "9" * 5000, "-" + "1" * 5000, "\x1b[2J\u202e", "²"], ids=lambda label: ascii(label[:8])
)
def test_whatever_is_written_for_a_class_is_answered_in_one_line_that_fits_a_screen(sample, label):
    with pytest.raises(ValueError, match="(there is no class|class index).*input 'class_label'") as error:
        sample(class_label=label)
    assert str(error.value).isprintable() and len(str(error.value)) <= 2000


def test_a_wrong_number_of_labels_is_answered_with_the_batch(sample):
    refused(lambda: sample(3, class_label="0;1"), "input 'class_label'", "2 labels came for a batch of 3")


def test_a_latent_of_another_size_than_the_classifiers_is_refused(sample):
    refused(lambda: sample(latent_image={"samples": torch.zeros(1, 3, 64, 64)}), "input 'latent_image'", "32 x 32")


def test_a_latent_of_a_latent_model_is_refused(sample):
    refused(lambda: sample(latent_image={"samples": torch.ones(1, 4, 32, 32)}), "input 'latent_image'", "3 channels")


def test_a_respacing_that_does_not_exist_is_refused(sample):
    refused(lambda: sample(respacing="ddim37"), "input 'respacing'", "ddim36")


def test_more_steps_than_the_chain_has_are_refused(sample):
    refused(lambda: sample(steps=1001), "input 'steps'", "2 to 1000")


def test_a_pixel_model_without_classes_gets_a_conditioning_that_says_nothing(execute, loaded, monkeypatch):
    """Guiders want one of every model."""
    from dataclasses import replace

    inner = loaded[0].model
    monkeypatch.setattr(inner, "facts", replace(inner.facts, class_names=()))
    (positive,) = execute("Guidance_ClassConditioning", model=loaded[0], class_label="")
    assert len(positive) == 1
    refused(lambda: execute("Guidance_ClassConditioning", model=loaded[0], class_label="3"), "'model'", "no classes")


def test_classes_for_a_model_without_classes_are_refused(execute, comfy):
    class Plain:
        model = object()

    refused(
        lambda: execute("Guidance_ClassConditioning", model=Plain(), class_label="3"), "input 'model'", "no classes"
    )


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 5, 32, 32), "takes a LATENT of 3 channels"), ((1, 3, 30, 32), "multiples of 8")]
)
def test_the_stock_sampler_says_what_the_pixel_model_takes(loaded, execute, comfy, shape, message):
    import comfy.sample

    (positive,) = execute("Guidance_ClassConditioning", model=loaded[0], class_label="")

    def run():
        with torch.inference_mode():
            latent = torch.ones(shape)
            comfy.sample.sample(loaded[0], latent, 2, 1.0, "euler", "normal", positive, [], latent, seed=0)

    refused(run, "scenes_unet.safetensors", message)


def test_a_missing_file_is_named_with_its_folder(execute):
    refused(
        lambda: execute("Guidance_LoadModel", model_name="nothing.safetensors"),
        "(input 'model_name' of Load Guidance Model)",
        "guidance_models",
    )


def test_a_classifier_in_the_model_folder_is_refused(execute, comfy):
    import folder_paths

    folder = folder_paths.get_folder_paths("guidance_models")[0]
    __import__("os").makedirs(folder, exist_ok=True)
    source = folder_paths.get_full_path("guidance_classifiers", "scenes_classifier.safetensors")
    __import__("shutil").copy(source, f"{folder}/wrong.safetensors")
    refused(
        lambda: execute("Guidance_LoadModel", model_name="wrong.safetensors"),
        "input 'model_name'",
        "wrong.safetensors is an ADM classifier",
        "a model is needed",
    )


def test_pictures_of_two_sizes_make_no_sheet(execute):
    images = {"image0": torch.zeros(1, 8, 8, 3), "image1": torch.zeros(1, 16, 8, 3)}
    refused(lambda: execute("Guidance_ContactSheet", images=images), "input 'images'", "8 x 16", "8 x 8")
