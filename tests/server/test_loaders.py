"""What a loader assumed reaches the user over HTTP, and a size that is far too large ends the run at once."""

import pytest
from own_networks import own_unet, saved

from bench.host_server import HostError

pytestmark = pytest.mark.server
OLD = {"clip_denoised": True, "schedule": "auto", "heads": "auto"}  # as workflows from before the other inputs


def prompt(side, **loader):
    """One step of a model on an Empty Latent Image."""
    node = {
        "model": ("Guidance_LoadModel", OLD | loader),
        "none": ("Guidance_ClassConditioning", {"model": ["model", 0], "class_label": ""}),
        "latent": ("EmptyLatentImage", {"width": side, "height": side, "batch_size": 1}),
        "samples": (
            "KSampler",
            {"model": ["model", 0], "positive": ["none", 0], "negative": ["none", 0], "latent_image": ["latent", 0]}
            | {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
        ),
        "pictures": ("VAEDecode", {"samples": ["samples", 0], "vae": ["model", 1]}),
        "shown": ("PreviewImage", {"images": ["pictures", 0]}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in node.items()}


@pytest.fixture
def own(server):
    folder = server.base / "models" / "guidance_models"
    folder.mkdir(parents=True, exist_ok=True)
    return saved(own_unet(), folder / "own_unet.pt").name


def test_what_was_assumed_is_in_the_history_of_the_run(server, own):
    outputs = server.run(prompt(32, model_name=own))
    assert outputs["shown"]["images"]
    (text,) = outputs["model"]["text"]
    assert "heads = 64 channels a head" in text and "image_size = 16" in text


def test_what_was_chosen_is_not(server, own):
    told = {"num_heads": 4, "attention_order": "legacy", "training_steps": 4000, "image_size": 32}
    outputs = server.run(prompt(32, model_name=own, **{**told, "schedule": "cosine"}))
    assert outputs["shown"]["images"] and "model" not in outputs


def test_an_image_for_latents_is_refused_by_a_small_pixel_model(server):
    with pytest.raises(HostError, match="trained on pictures of 32 x 32, and this one is 512 x 512; use Empty Pixel"):
        server.run(prompt(512, model_name="scenes_unet.safetensors"))
