"""The pack in a real server, through the HTTP API and the websocket."""

import io
import json
import time

import numpy as np
import pytest
import websocket
from conftest import ROOT
from PIL import Image

from bench.host_server import HostError

pytestmark = pytest.mark.server
WORKFLOWS = [path for path in sorted((ROOT / "workflows" / "api").glob("*.json")) if path.stem != "convert_file"]


def stock_prompt(sampler="euler", steps=4, seed=1, batch=1, label="heart", cfg=3.0):
    """Nothing but our loader and conditioning around the host's KSampler."""
    return {
        "model": {
            "class_type": "Guidance_LoadModel",
            "inputs": {
                "model_name": "scenes_unet.safetensors",
                "clip_denoised": True,
                "schedule": "auto",
                "heads": "auto",
            },
        },
        "yes": {"class_type": "Guidance_ClassConditioning", "inputs": {"model": ["model", 0], "class_label": label}},
        "no": {"class_type": "Guidance_ClassConditioning", "inputs": {"model": ["model", 0], "class_label": ""}},
        "latent": {
            "class_type": "Guidance_EmptyPixelLatent",
            "inputs": {"width": 32, "height": 32, "batch_size": batch},
        },
        "sample": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["model", 0],
                "positive": ["yes", 0],
                "negative": ["no", 0],
                "latent_image": ["latent", 0],
                "seed": seed,
                "steps": steps,
                "cfg": cfg,
                "sampler_name": sampler,
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["model", 1]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "test"}},
    }


def picture(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddim"])
def test_the_stock_ksampler_samples_the_pixel_model(server, sampler):
    outputs = server.run(stock_prompt(sampler, steps=8))
    (png,) = server.images(outputs["save"])
    image = picture(png)
    assert image.shape == (32, 32, 3)
    assert image.std() > 5


def test_advanced_sampling_with_the_hosts_own_parts_works(server):
    prompt = stock_prompt()
    prompt["sample"] = {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            "noise": ["noise", 0],
            "guider": ["guider", 0],
            "sampler": ["sampler", 0],
            "sigmas": ["sigmas", 0],
            "latent_image": ["latent", 0],
        },
    }
    prompt["noise"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}}
    guider = {"model": ["model", 0], "positive": ["yes", 0], "negative": ["no", 0], "cfg": 3.0}
    prompt["guider"] = {"class_type": "CFGGuider", "inputs": guider}
    prompt["sampler"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
    schedule = {"model": ["model", 0], "scheduler": "normal", "steps": 4, "denoise": 1.0}
    prompt["sigmas"] = {"class_type": "BasicScheduler", "inputs": schedule}
    (ours,) = server.images(server.run(prompt)["save"])
    (theirs,) = server.images(server.run(stock_prompt())["save"])
    assert np.array_equal(picture(ours), picture(theirs))


def test_the_stock_empty_latent_makes_the_same_picture(server):
    prompt = stock_prompt(seed=2)
    prompt["latent"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 32, "height": 32, "batch_size": 1}}
    (stock,) = server.images(server.run(prompt)["save"])
    (ours,) = server.images(server.run(stock_prompt(seed=2))["save"])
    assert np.array_equal(picture(stock), picture(ours))


def events(server):
    address = server.url.replace("http", "ws") + f"/ws?clientId={server.client}"
    return websocket.create_connection(address, timeout=60)


def read(socket):
    """The next text event; binary ones are previews."""
    message = socket.recv()
    return json.loads(message) if isinstance(message, str) else {"type": "preview", "data": {"bytes": len(message)}}


def test_progress_and_previews_arrive_on_the_websocket(server):
    socket = events(server)
    prompt_id = server.queue(stock_prompt(steps=6, seed=11))
    seen, previews = [], 0
    while True:
        event = read(socket)
        previews += event["type"] == "preview"
        if event["type"] == "progress" and event["data"]["prompt_id"] == prompt_id:
            seen.append((event["data"]["value"], event["data"]["max"]))
        if event["type"] == "execution_success" and event["data"]["prompt_id"] == prompt_id:
            break
    socket.close()
    assert seen[-1] == (6, 6) and len(seen) >= 3
    assert previews >= 1


@pytest.mark.parametrize("guided", [False, True], ids=["KSampler", "Classifier-Guided Sampler"])
def test_interrupt_stops_within_two_steps_and_the_next_prompt_works(server, guided):
    steps = 300
    prompt = stock_prompt(steps=steps, seed=21, batch=8)
    if guided:
        prompt = json.loads((ROOT / "workflows" / "api" / "classifier_guidance.json").read_text("utf-8"))
        prompt["5"]["inputs"]["steps"] = steps
    sampler = "5" if guided else "sample"
    socket = events(server)
    prompt_id = server.queue(prompt)
    at_interrupt, last = None, 0
    while True:
        event = read(socket)
        data = event["data"]
        if event["type"] == "progress" and data["prompt_id"] == prompt_id and data["node"] == sampler:
            last = data["value"]
            if last >= 3 and at_interrupt is None:
                server.post("/interrupt", {})
                at_interrupt = last
        if event["type"] == "execution_interrupted" and data["prompt_id"] == prompt_id:
            break
        assert event["type"] != "execution_success", "the run was not interrupted"
    socket.close()
    assert last <= at_interrupt + 2
    assert server.wait(prompt_id)["status"]["status_str"] == "error"
    assert server.images(server.run(stock_prompt(seed=int(time.time())))["save"])


def test_zero_steps_are_refused_before_anything_runs(server):
    prompt = json.loads((ROOT / "workflows" / "api" / "classifier_guidance.json").read_text("utf-8"))
    prompt["5"]["inputs"]["steps"] = 0
    with pytest.raises(HostError) as error:
        server.run(prompt)
    (problem,) = error.value.details["node_errors"]["5"]["errors"]
    assert problem["extra_info"]["input_name"] == "steps" and "min of 2" in problem["message"]


def test_an_error_names_node_and_input_in_the_hosts_own_report(server):
    prompt = json.loads((ROOT / "workflows" / "api" / "classifier_guidance.json").read_text("utf-8"))
    prompt["5"]["inputs"]["class_label"] = "hart"
    with pytest.raises(HostError, match="did you mean heart.*input 'class_label'") as error:
        server.run(prompt)
    assert error.value.details["node_type"] == "Guidance_ClassifierGuidedSampler"


def test_help_pages_and_templates_are_served(server):
    page = server.get("/extensions/diffusion-guidance/docs/Guidance_LoadModel/en.md").decode()
    assert "Load Guidance Model" in page
    templates = json.loads(server.get("/workflow_templates"))
    assert "1 Start here" in templates["diffusion-guidance"]
    template = json.loads(server.get("/api/workflow_templates/diffusion-guidance/1%20Start%20here.json"))
    assert template["nodes"]  # served from the first folder of the names that the host knows
