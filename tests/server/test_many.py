"""Two servers that save at once, eight clients of one, and many prompts: nothing is lost, mixed up or kept."""

import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import device_flags, host_folder
from safetensors.torch import load_file, save_file

from bench.host_server import running

pytestmark = pytest.mark.server
CLIENTS, EACH = 8, 3
WARM, GROWTH = 200, 32 << 20  # prompts until all is loaded; bytes that more of them may take
WHOLE = {"start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def drawing(seed):
    """A guided run of two steps."""
    settings = {
        "gradient": "auto",
        "unit": "auto",
        "cap": 1.0,
        "every": 1,
        "inner_steps": 1,
        "views": 1,
        "recurrence": 1,
    }
    model, no = ["model", 0], ["no", 0]
    sampling = {"seed": seed, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    loader = {"model_name": "scenes_unet.safetensors", "clip_denoised": True, "schedule": "auto", "heads": "auto"}
    links = {"model": ["guided", 0], "positive": no, "negative": no, "latent_image": ["latent", 0]}
    return {
        "model": node("Guidance_LoadModel", **loader),
        "no": node("Guidance_ClassConditioning", model=model, class_label=""),
        "latent": node("Guidance_EmptyPixelLatent", width=32, height=32, batch_size=1),
        "red": node("EmptyImage", width=32, height=32, batch_size=1, color=0xFF0000),
        "guide": node("Guidance_PaletteGuide", image=["red", 0], weight=1.0, **WHOLE),
        "guided": node("Guidance_ApplyGuides", model=model, guides=["guide", 0], strength=1.0, **settings),
        "sample": node("KSampler", **links, **sampling),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["model", 1]),
        "save": node("PreviewImage", images=["decode", 0]),
    }


@pytest.fixture(scope="module")
def other(server, tmp_path_factory):
    """A second server on the models folder of the first."""
    base = tmp_path_factory.mktemp("second")
    (server.base / "models" / "guidance_directions").mkdir(parents=True, exist_ok=True)
    (base / "models").symlink_to(server.base / "models", target_is_directory=True)
    with running(host_folder(), base=base, flags=device_flags()) as host:
        yield host


def saving(count):
    """A prompt that saves a direction so often; each loads it with other settings, so none is taken from a cache."""
    prompt = {}
    for number in range(count):
        prompt[f"load {number}"] = node(
            "Guidance_LoadHSpaceDirection", direction_name="seed.safetensors", train_steps=number
        )
        prompt[f"save {number}"] = node(
            "Guidance_SaveHSpaceDirection", hspace=[f"load {number}", 0], filename_prefix=f"race {count}"
        )
    return prompt


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_two_servers_of_one_folder_lose_none_of_their_saves(server, other, count):
    folder = server.base / "models" / "guidance_directions"
    record = {"kind": "hspace_edit", "form": "direction", "name": "drawn"}
    save_file({"delta_h": torch.ones(1, 128, 1, 1)}, folder / "seed.safetensors", record)
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda host: host.run(saving(count)), (server, other)))
    names = [name for output in outputs for saved in output.values() for name in saved["text"]]
    files = {path.name for path in folder.glob(f"race {count}_*")}
    assert len(names) == len(set(names)) == 2 * count and files == set(names)
    assert all(torch.equal(load_file(folder / name)["delta_h"], torch.ones(1, 128, 1, 1)) for name in names)
    assert not list(folder.glob(".*"))


def test_eight_clients_of_one_server_get_their_own_pictures(server, other):
    def drawn(host, number):
        """By a client of its own, with its own seeds."""
        client = replace(host, client=uuid.uuid4().hex)
        queued = [client.queue(drawing(number * EACH + k)) for k in range(EACH)]
        return [client.images(client.wait(prompt_id)["outputs"]["save"]) for prompt_id in queued]

    with ThreadPoolExecutor(CLIENTS) as pool:
        together = list(pool.map(lambda number: drawn(server, number), range(CLIENTS)))
    assert len({picture for client in together for (picture,) in client}) == CLIENTS * EACH
    assert together == [drawn(other, number) for number in range(CLIENTS)]


def held(host):
    """Memory of a server's process, in bytes."""
    port = host.url.rpartition(":")[2]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if f"--port\0{port}\0".encode() in path.read_bytes():
            return int(re.search(r"VmRSS:\s+(\d+)", path.with_name("status").read_text())[1]) << 10
    pytest.skip("only Linux tells the memory of another process")


@pytest.mark.slow
def test_a_thousand_prompts_keep_no_memory(server):
    for seed in range(1000, 1000 + WARM):
        server.run(drawing(seed))
    before = held(server)
    for seed in range(2000, 3000):
        server.run(drawing(seed))
    assert held(server) - before < GROWTH
