"""A sweep on a real ComfyUI with the pack: what the stubs imitate is so."""

import csv
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.timeout(400)  # a host starts in 12 s, on a machine with much else to do in minutes
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def real():
    """A host, started as the pack's own tests do; `dev.py test --examples` names it and its Python."""
    missing = [name for name in ("COMFYUI_PATH", "COMFYUI_PYTHON") if not os.environ.get(name)]
    if missing:
        pytest.exit(f"{', '.join(missing)} not set; run `python dev.py test --examples`", returncode=4)
    sys.path.insert(0, str(ROOT))
    from bench.host_server import running

    with running(Path(os.environ["COMFYUI_PATH"]), os.environ["COMFYUI_PYTHON"]) as host:
        yield host


@pytest.fixture
def scene(sweeps):
    """A KSampler on the pack's pixel model, few steps; a node that refuses one label; a text that is a number."""
    prompt = {
        "1": {
            "class_type": "Guidance_LoadModel",
            "inputs": {
                "model_name": "scenes_unet.safetensors",
                "clip_denoised": True,
                "schedule": "auto",
                "heads": "auto",
            },
        },
        "2": {"class_type": "Guidance_ClassConditioning", "inputs": {"model": ["1", 0], "class_label": "heart"}},
        "3": {"class_type": "Guidance_ClassConditioning", "inputs": {"model": ["1", 0], "class_label": ""}},
        "4": {"class_type": "Guidance_EmptyPixelLatent", "inputs": {"width": 32, "height": 32, "batch_size": 2}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["3", 0],
                "latent_image": ["4", 0],
                "seed": 1,
                "steps": 2,
                "cfg": 3.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 1]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "sweep"}},
        "8": {"class_type": "PrimitiveFloat", "inputs": {"value": 0.25}},
        "9": {"class_type": "PreviewAny", "inputs": {"source": ["8", 0]}, "_meta": {"title": "Score"}},
    }
    sweeps.workflow.write_text(json.dumps(prompt))
    return sweeps


def test_pictures_settings_and_scores_of_a_real_host(scene, real):
    grid = {"2.inputs.class_label": ["heart", "hart"], "8.inputs.value": [0.5, 2.0], "5.inputs.steps": [2, 0]}
    scene.grid.write_text(json.dumps(grid))
    status, said = scene.run([], "--hosts", real.url, "--retries", "1")
    assert status == 1 and "2 of 8 jobs finished, 6 failed" in said
    assert "node 5 (KSampler), input 'steps': Value 0 smaller than min of 1" in said
    assert "did you mean heart" in said and "node 2 (Guidance_ClassConditioning)" in said
    rows = list(csv.DictReader((scene.results / "grid.csv").open()))
    assert [row["Score"] for row in rows] == ["0.5", "2.0"] and all(float(row["seconds"]) > 0 for row in rows)
    for record in scene.records():
        assert len(record["pictures"]) == 2
        with Image.open(scene.results / record["pictures"][0]) as picture:
            assert picture.size == (32, 32) and json.loads(picture.text["sweep"]) == record["settings"]
            assert json.loads(picture.text["prompt"])["5"]["inputs"]["steps"] == 2
    assert len(json.loads(real.get("/history"))) == 2  # of a prompt with one fault the host would do the rest


def test_what_a_killed_driver_had_queued_is_taken_up(scene, real):
    before = set(json.loads(real.get("/history")))
    scene.grid.write_text(json.dumps({"5.inputs.seed": [11, 12, 13, 14, 15, 16], "5.inputs.steps": [12]}))
    process = scene.start([], "--hosts", real.url)
    scene.wait_for(2, 60)
    process.kill()
    process.communicate()
    assert scene.run([], "--hosts", real.url)[0] == 0
    assert len(scene.finished()) == 6
    history = json.loads(real.get("/history"))
    numbers = sorted(entry["prompt"][0] for key, entry in history.items() if key not in before)
    assert numbers == list(range(numbers[0], numbers[0] + 6))  # a prompt sent again would have taken a seventh number


def test_ctrl_c_stops_a_real_host_within_its_job(scene, real):
    scene.grid.write_text(json.dumps({"5.inputs.seed": [21, 22, 23], "5.inputs.steps": [2000]}))
    process = scene.start([], "--hosts", real.url)
    end = time.monotonic() + 30
    while not json.loads(real.get("/queue"))["queue_running"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "0 of 3 jobs finished" in "".join(process.communicate(timeout=60)) and process.returncode == 130
    time.sleep(2)
    queue = json.loads(real.get("/queue"))
    assert not queue["queue_running"] and not queue["queue_pending"]
