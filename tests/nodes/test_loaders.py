"""Loaders: what was guessed is said and can be chosen, and what the host saves of our models loads again."""

import logging
from functools import partial

import golden_files
import pytest
import torch
from guided_sampling import sample
from own_networks import own_classifier, own_unet, saved

pytestmark = pytest.mark.host
X, T = golden_files.draw((2, 3, 16, 16), 1), torch.tensor([500, 20])
SIX = ("num_heads", "attention_order", "training_steps", "rescale_timesteps", "image_size")


def put(kind, network, name="own.pt"):
    """A file where the loaders look."""
    from pathlib import Path

    import folder_paths

    folder = Path(folder_paths.get_folder_paths(f"guidance_{kind}")[0])
    folder.mkdir(parents=True, exist_ok=True)
    saved(network, folder / name)
    folder_paths.filename_list_cache.clear()
    return name


@pytest.fixture
def result(pack_nodes):
    """A node's whole result, its text for the user included."""

    def run(node_id, **inputs):
        node = pack_nodes[node_id]
        defaults = {entry.id: entry.default for entry in node.GET_SCHEMA().inputs if getattr(entry, "default", None)}
        with torch.inference_mode():
            return node.PREPARE_CLASS_CLONE(None).execute(**{**defaults, **inputs})

    return run


@pytest.fixture
def load(result):
    return partial(result, "Guidance_LoadModel", clip_denoised=True, schedule="auto", heads="auto")


def predicted(model, x=X, t=T):
    with torch.inference_mode():
        return model.model.diffusion_model.network(x, t)


# --- said


@pytest.mark.parametrize("change", [{}, {"num_heads": 1}, {"new_attention_order": True}, {"channel_mult": (1, 4)}])
def test_an_own_model_says_in_log_and_text_what_was_assumed(load, caplog, change):
    name = put("models", own_unet(**change))
    with caplog.at_level(logging.WARNING):
        (text,) = load(model_name=name).ui["text"]
    assert "own.pt is no file that is known here" in text and text in caplog.text
    for word in ("heads = 64 channels a head", "attention_order = legacy", "schedule = linear", "image_size = 16"):
        assert word in text


@pytest.mark.parametrize("name", ["unet", "flow", "latent", "ddpm", "diffae"])
def test_nothing_is_said_of_a_file_that_tells_everything(load, name):
    try:
        assert load(model_name=f"scenes_{name}.safetensors").ui is None
    except ValueError as error:
        assert "there is no file" in str(error) and name == "ddpm"


def test_a_classifier_says_it_too_and_is_chosen(result):
    name = put("classifiers", own_classifier(head_channels=None, num_heads=2))
    guessed = result("Guidance_LoadClassifier", classifier_name=name)
    assert "heads = 64 channels a head" in guessed.ui["text"][0] and "image_size" not in guessed.ui["text"][0]
    chosen = {"num_heads": 2, "attention_order": "legacy", "training_steps": 4000, "schedule": "cosine"}
    node = result("Guidance_LoadClassifier", classifier_name=name, **chosen)
    assert node.ui is None
    classifier = node.args[0]
    assert len(classifier.schedule.sigmas) == 4000
    with torch.inference_mode(False), torch.no_grad():
        wanted = own_classifier(head_channels=None, num_heads=2)(X, T)
        assert torch.equal(classifier.patcher.model(X, T), wanted)
        assert not torch.equal(guessed.args[0].patcher.model(X, T), wanted)


def test_a_diffusion_autoencoder_says_it_too(result):
    from pack.models.diffae.network import DiffAEConfig, DiffusionAutoencoder

    sizes = {"model_channels": 32, "out_channels": 3, "num_res_blocks": 1, "channel_mult": (1, 2), "attention": (2,)}
    config = DiffAEConfig(**sizes, encoder_mult=(1, 2, 2), encoder_res_blocks=1, semantic=64)
    name = put("models", golden_files.fill(DiffusionAutoencoder(config), "d"))
    guessed = result("Guidance_LoadDiffusionAutoencoder", model_name=name)
    assert "heads = 1 head" in guessed.ui["text"][0] and "image_size = 32" in guessed.ui["text"][0]
    told = {"num_heads": 2, "schedule": "linear", "training_steps": 1000, "image_size": 64}
    model, codec, _ = result("Guidance_LoadDiffusionAutoencoder", model_name=name, **told).args
    assert codec.facts.image_size == model.model.facts.image_size == 64
    assert codec.network.config.num_heads == model.model.diffusion_model.network.config.num_heads == 2


# --- chosen


@pytest.mark.parametrize(
    "change, chosen",
    [
        ({"channel_mult": (1, 4), "num_heads": 8}, {"heads": "8 heads"}),
        ({}, {"num_heads": 4}),
        ({"channel_mult": (1, 4), "num_heads": 2}, {"num_heads": 2}),
        ({"num_heads": 1}, {"heads": "1 head"}),
        ({"new_attention_order": True}, {"num_heads": 4, "attention_order": "new"}),
    ],
)
def test_an_own_model_predicts_what_its_trained_network_does(load, change, chosen):
    trained = own_unet(**change)
    name = put("models", trained)
    wanted = trained(X, T)
    assert torch.equal(predicted(load(model_name=name, **chosen).args[0]), wanted)
    assert golden_files.relative_error(predicted(load(model_name=name).args[0]), wanted) > 1e-3


def test_choices_that_can_not_be_name_their_input(load):
    name = put("models", own_unet())
    with pytest.raises(ValueError, match="attention on 128 channels can't have 3 heads.*input 'num_heads'"):
        load(model_name=name, num_heads=3)
    with pytest.raises(ValueError, match="heads is '8 heads' and num_heads 4.*input 'num_heads'"):
        load(model_name=name, num_heads=4, heads="8 heads")


@pytest.mark.parametrize("grey", [{"in_channels": 1, "out_channels": 1}, {"in_channels": 1}, {"in_channels": 4}])
def test_a_model_of_grey_pictures_or_of_latents_is_refused_when_it_is_loaded(load, grey):
    with pytest.raises(ValueError, match="3 colour channels are needed.*input 'model_name'"):
        load(model_name=put("models", own_unet(**grey)))


# --- training steps


@pytest.mark.parametrize("steps", [1000, 2000, 4000])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_chain_of_any_length_is_the_hosts_to_sample(load, execute, steps, schedule):
    """Sigmas of the whole chain; percent spans it; the network hears the index of the sigma."""
    from pack.models.schedule import NoiseSchedule

    name = put("models", own_unet())
    chosen = {"model_name": name, "schedule": schedule, "training_steps": steps, "image_size": 32}
    model = load(**chosen).args[0]
    sampling, table = model.get_model_object("model_sampling"), NoiseSchedule.named(schedule, steps).sigmas.float()
    assert torch.equal(sampling.sigmas, table)
    places = torch.tensor([0, 7, steps // 2, steps - 1])
    assert torch.equal(sampling.timestep(table[places]), places)
    for percent in (0.001, 0.25, 0.5, 0.9):
        index = (1 - percent) * (steps - 1)
        lower, upper = table[int(index)], table[min(steps - 1, int(index) + 1)]
        assert lower * (1 - 1e-6) <= sampling.percent_to_sigma(percent) <= upper * (1 + 1e-6)
    assert sampling.percent_to_sigma(0.0) > table[-1] and sampling.percent_to_sigma(1.0) == 0
    assert torch.isfinite(sample(execute, model, steps=3, batch=1)).all()


def test_a_thousand_steps_are_the_hosts_own_chain_bit_for_bit(models):
    import comfy.model_sampling

    from pack.models.schedule import NoiseSchedule

    ours = models["scenes_unet"][0].get_model_object("model_sampling")
    host = comfy.model_sampling.ModelSamplingDiscrete()
    host._register_schedule(given_betas=NoiseSchedule.named("linear").betas)
    assert torch.equal(ours.sigmas, host.sigmas)
    for percent in torch.linspace(0, 1, 57).tolist():
        assert ours.percent_to_sigma(percent) == host.percent_to_sigma(percent)


@pytest.mark.parametrize("rescale, steps, factor", [("no", 4000, 1), ("yes", 4000, 0.25), ("yes", 1000, 1)])
def test_the_network_hears_timesteps_as_it_was_trained(load, rescale, steps, factor):
    name = put("models", own_unet())
    model = load(model_name=name, training_steps=steps, rescale_timesteps=rescale).args[0]
    network, heard = model.model.diffusion_model, []
    plain = network.network.forward
    network.network.forward = lambda x, t, *rest: (heard.append(t), plain(x, t, *rest))[1]
    sigma = model.get_model_object("model_sampling").sigmas[[600, 44]]
    with torch.inference_mode():
        model.model.apply_model(X, sigma)
    assert torch.equal(heard[0], torch.tensor([600.0, 44.0]) * factor)


# --- what the host saves


@pytest.mark.parametrize("kind", ["scenes_unet", "scenes_flow", "scenes_latent"])
def test_what_the_hosts_save_model_writes_of_ours_loads_as_the_same_model(load, execute, models, kind, tmp_path):
    from pathlib import Path

    import folder_paths
    from comfy_extras.nodes_model_merging import ModelSave

    model = models[kind][0]
    ModelSave().save(model, f"again_{kind}")
    written = next(Path(folder_paths.get_output_directory()).rglob(f"again_{kind}*.safetensors"))
    folder = Path(folder_paths.get_folder_paths("guidance_models")[0])
    folder.mkdir(parents=True, exist_ok=True)
    written.rename(folder / f"again_{kind}.safetensors")
    folder_paths.filename_list_cache.clear()
    again = load(model_name=f"again_{kind}.safetensors")
    assert again.ui is None
    assert again.args[0].model.facts == model.model.facts
    assert torch.equal(sample(execute, again.args[0]), sample(execute, model))
    assert again.args[1].latent_channels == models[kind][1].latent_channels


def test_the_decoder_of_an_autoencoder_that_the_host_saved_is_one(load, result):
    from pathlib import Path

    import folder_paths
    from comfy_extras.nodes_model_merging import ModelSave

    model = load(model_name="scenes_diffae.safetensors").args[0]
    ModelSave().save(model, "decoder")
    written = next(Path(folder_paths.get_output_directory()).rglob("decoder*.safetensors"))
    folder = Path(folder_paths.get_folder_paths("guidance_models")[0])
    folder.mkdir(parents=True, exist_ok=True)
    written.rename(folder / "decoder.safetensors")
    folder_paths.filename_list_cache.clear()
    again = load(model_name="decoder.safetensors").args[0]
    assert again.model.facts == model.model.facts
    with pytest.raises(ValueError, match="the decoder of a diffusion autoencoder alone"):
        result("Guidance_LoadDiffusionAutoencoder", model_name="decoder.safetensors")


# --- CLIPs


@pytest.mark.parametrize("choice", ["auto", "GELU", "QuickGELU"])
def test_the_activation_of_a_clip_is_said_where_it_was_assumed(result, choice):
    from pack.models.clip import CLIP, ClipConfig

    text = {"text_width": 64, "text_layers": 1, "text_heads": 1, "text_mlp_ratio": 4.0, "context": 77}
    config = ClipConfig(16, 32, 64, (2,), 8, 64, 4.0, **text, vocabulary=49408, quick_gelu=True)
    name = put("encoders", CLIP.build(config), "vit.pt")
    loaded = result("Guidance_LoadEncoder", encoder_name=name, activation=choice, num_heads=1)
    assert loaded.args[0].network.config.quick_gelu == (choice == "QuickGELU")
    assert (loaded.ui is None) == (choice != "auto")
    if choice == "auto":
        assert "activation = GELU" in loaded.ui["text"][0]


def test_the_heads_of_a_vit_of_an_unusual_width_are_said_and_chosen(result):
    from pack.models.clip import CLIP, ClipConfig

    text = {"text_width": 64, "text_layers": 1, "text_heads": 1, "text_mlp_ratio": 4.0, "context": 77}
    config = ClipConfig(16, 32, 192, (2,), 8, 32, 4.0, **text, vocabulary=49408)
    name = put("encoders", CLIP.build(config), "vit_tiny.pt")
    assert "num_heads = 3" in result("Guidance_LoadEncoder", encoder_name=name).ui["text"][0]
    chosen = result("Guidance_LoadEncoder", encoder_name=name, num_heads=6, activation="GELU")
    assert chosen.ui is None and chosen.args[0].network.config.head_width == 32
    with pytest.raises(ValueError, match="its vision tower is 192 channels wide.*7 heads.*input 'num_heads'"):
        result("Guidance_LoadEncoder", encoder_name=name, num_heads=7)


def test_later_inputs_are_optional_so_that_saved_workflows_load(pack_nodes):
    for node_id in ("Guidance_LoadModel", "Guidance_LoadDiffusionAutoencoder", "Guidance_LoadClassifier"):
        entries = {entry.id: entry for entry in pack_nodes[node_id].GET_SCHEMA().inputs}
        assert all(entries[name].optional for name in SIX if name in entries)
