"""The small diffusion autoencoder in a real server: decoded by the host's own samplers, and refused in words."""

import io
import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench.host_server import HostError
from training import scenes

pytestmark = pytest.mark.server
SHIPPED = ROOT / "models" / "demo" / "models" / "scenes_diffae.safetensors"
PICTURE, OTHER = "semantic_{}.png", "other_diffae.safetensors"


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture(scope="module", autouse=True)
def files(server):
    """Two pictures, and another autoencoder: ours with its encoder's last layer changed."""
    for folder in ("input", "models/guidance_models"):
        (server.base / folder).mkdir(parents=True, exist_ok=True)
    image = scenes.render(scenes.draw(2, torch.Generator().manual_seed(5))).image
    pictures = ((image.movedim(1, -1) + 1) * 127.5).round().byte().numpy()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(server.base / "input" / PICTURE.format(number))
    state = load_file(SHIPPED)
    state["encoder.out.3.weight"] += 0.01
    with safe_open(SHIPPED, "pt") as file:
        save_file(state, server.base / "models" / "guidance_models" / OTHER, file.metadata())
    return pictures


def parts():
    """Both pictures' codes; the host runs only what an output asks for."""
    prompt = {
        "model": node("Guidance_LoadDiffusionAutoencoder", model_name=SHIPPED.name),
        "another": node("Guidance_LoadDiffusionAutoencoder", model_name=OTHER),
        "latent": node("EmptyLatentImage", width=32, height=32, batch_size=1),
        "random": node("RandomNoise", noise_seed=1),
        "sampler": node("Guidance_DDIMSampler", eta=0.0, clip_denoised=True),
        "sigmas": node("Guidance_RespacedSigmas", model=["model", 0], respacing="ddim25"),
    }
    for number in (0, 1):
        image = [f"image {number}", 0]
        prompt[f"image {number}"] = node("LoadImage", image=PICTURE.format(number))
        prompt[f"z {number}"] = node("Guidance_SemanticEncode", codec=["model", 1], image=image)
        prompt[f"conditioning {number}"] = node("Guidance_ApplySemantic", semantic=[f"z {number}", 0])
    code = {"model": ["model", 0], "semantic": ["z 0", 0], "image": ["image 0", 0], "steps": 25}
    prompt["x_T"] = node("Guidance_StochasticEncode", **code)
    few = {"codec": ["model", 1], "positive": ["twice 0", 0], "negative": ["twice 1", 0], "method": "mean difference"}
    prompt["direction"] = node("Guidance_FitSemanticDirection", **few)
    for number in (0, 1):
        prompt[f"twice {number}"] = node("RepeatImageBatch", image=[f"image {number}", 0], amount=2)
    return prompt


def advanced(noise):
    links = {"noise": noise, "guider": ["guider", 0], "sampler": ["sampler", 0], "sigmas": ["sigmas", 0]}
    return {
        "guider": node("BasicGuider", model=["model", 0], conditioning=["conditioning 0", 0]),
        "sample": node("SamplerCustomAdvanced", latent_image=["latent", 0], **links),
    }


def ksampler(cfg=1.0, positive="conditioning 0", negative="conditioning 0"):
    given = {"add_noise": "disable", "noise_seed": 0, "steps": 25, "cfg": cfg, "sampler_name": "euler"}
    given |= {"scheduler": "normal", "start_at_step": 0, "end_at_step": 1000, "return_with_leftover_noise": "disable"}
    links = {"model": ["model", 0], "latent_image": ["x_T", 1], "positive": [positive, 0], "negative": [negative, 0]}
    return {"sample": node("KSamplerAdvanced", **given, **links)}


def decoded(server, sampling, **nodes):
    """The saved picture, as floats."""
    prompt = parts() | sampling | nodes
    prompt["decode"] = node("VAEDecode", samples=["sample", 0], vae=["model", 2])
    prompt["save"] = node("SaveImage", images=["decode", 0], filename_prefix="semantic")
    (png,) = server.images(server.run(prompt)["save"])
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)


WAYS = {"SamplerCustomAdvanced": advanced(["x_T", 0]), "KSamplerAdvanced": ksampler()}


@pytest.mark.parametrize("way", WAYS)
def test_the_hosts_samplers_give_a_picture_back_from_both_its_codes(server, files, way):
    """Of 255; z_sem with another noise gives something like it."""
    again, alike = (
        np.abs(decoded(server, sampling) - files[0]).mean() for sampling in (WAYS[way], advanced(["random", 0]))
    )
    assert again < 12 and again < alike / 1.5


def test_a_negative_code_acts_with_cfg_above_1(server):
    plain, pushed = (decoded(server, ksampler(cfg, negative="conditioning 1")) for cfg in (1.0, 2.0))
    assert np.abs(plain - pushed).mean() > 1


def test_the_model_says_in_words_that_it_wants_a_code(server):
    unet = node("Guidance_LoadModel", model_name="scenes_unet.safetensors", clip_denoised=True)
    unet["inputs"] |= {"schedule": "auto", "heads": "auto"}
    labels = node("Guidance_ClassConditioning", model=["unet", 0], class_label="star")
    with pytest.raises(HostError, match="decodes a semantic code of 64 numbers, and none was given; connect Apply"):
        decoded(server, ksampler(positive="labels", negative="labels"), unet=unet, labels=labels)


ANOTHER, FITTED = {"codec": ["another", 1]}, {"direction": ["direction", 0]}
SINGLE = {"codec": ["model", 1], "positive": ["image 0", 0], "negative": ["image 1", 0], "method": "logistic"}
SAMPLED = {"seed": 0, "batch_size": 1, "steps": 2, "threshold": 0.5}
WRONG = {  # the node, its input, and what it gets
    "a code": ("Move Semantic", "semantic", {**ANOTHER, **FITTED, "semantic": ["z 0", 0], "amount": 0.3}),
    "a direction": ("Sample Semantic", "direction", {**ANOTHER, **FITTED, **SAMPLED}),
    "one picture": ("Fit Semantic Direction", "positive and negative", SINGLE),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_is_one_sentence_that_names_node_and_input(server, case):
    title, wrong, inputs = WRONG[case]
    node_id = f"Guidance_{title.replace(' ', '')}"
    prompt = parts() | {"wrong": node(node_id, **inputs)}
    prompt["shown"] = node("PreviewAny", source=["wrong", 0])
    with pytest.raises(HostError) as error:
        server.run(prompt)
    message = str(error.value).strip()
    assert error.value.details["node_type"] == node_id
    assert message.endswith(f" (input '{wrong}' of {title})")
    assert "\n" not in message and ". " not in message


def test_a_saved_direction_stands_in_the_loaders_list(server):
    saved = node("Guidance_SaveSemanticDirection", direction=["direction", 0], filename_prefix="star")
    outputs = server.run(parts() | {"save": saved})
    info = json.loads(server.get("/object_info/Guidance_LoadSemanticDirection"))["Guidance_LoadSemanticDirection"]
    assert outputs["save"]["text"][0] in json.dumps(info["input"]["required"]["direction_name"])
