"""Every workflow in API form through a real server: on shipped models, and on small files of what isn't shipped."""

import io
import json
import re
import shutil

import cascade_files
import family_files
import golden_files
import numpy as np
import pytest
import torch
from conftest import ROOT, host_folder
from one_checkpoint import as_one_checkpoint
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from models.adm import network
from models.asyrp.network import DeltaConfig, delta_block
from models.glide.network import GlideConfig, GlideUNet
from models.glide_clip.network import ImageConfig, ImageTower, TextConfig, TextTower
from training.scenes import CLASS_NAMES

pytestmark = pytest.mark.server
WORKFLOWS = [path for path in sorted((ROOT / "workflows" / "api").glob("*.json")) if path.stem != "convert_file"]


# Files that a user has and we don't, and what stands in for them; sizes shrink with them.
SUBSTITUTES = {
    "64x64_diffusion.pt": "scenes_unet.safetensors",
    "64x64_classifier.pt": "scenes_classifier.safetensors",
    "64_256_upsampler.pt": "random_upsampler.safetensors",
    "celeba_hq.ckpt": "scenes_unet.safetensors",
    "smiling_LC_CelebA_HQ_t999_ninv40_ngen40_0.pth": "random_delta_block.pth",
    "ffhq256_autoenc_latent.safetensors": "scenes_diffae.safetensors",
    "ffhq256_autoenc_cls.safetensors": "random_attributes.safetensors",
    "base.pt": "random_glide_3.safetensors",
    "base_inpaint.pt": "random_glide_7.safetensors",
    "upsample.pt": "random_glide_6.safetensors",
    "clip_image_enc.pt": "random_clip_image.safetensors",
    "decoder-ckpt-step=01000000-of-01000000.ckpt": "random_karlo_decoder.safetensors",
    "improved-sr-ckpt-step=1.2M.ckpt": "random_karlo_upsampler.safetensors",
    "prior-ckpt-step=01000000-of-01000000.ckpt": "random_karlo_prior.safetensors",
    "ViT-L-14_stats.th": "random_stats.safetensors",
    "cin256-v2.ckpt": "random_ldm.ckpt",
    "goldfish": "class 1",
    "IF-I-XL-v1.0.bin": "random_imagen_one.safetensors",
    "IF-II-L-v1.0.bin": "random_imagen_two.safetensors",
    "golden retriever": "heart",
    "open_clip_model.safetensors": "scenes_clip.safetensors",
    "golden evening light": "a red star",
    "make it autumn": "red",
    "a photograph of a house by the sea": "star",
    "a portrait photograph of a smiling person": "star",
    "flux-2-klein-4b-fp8.safetensors": "random_flux2.safetensors",
    "flux2-vae.safetensors": "random_flux2_vae.safetensors",
    "ae.safetensors": "random_ae.safetensors",
    "wan2.2_ti2v_5B_fp16.safetensors": "random_wan22.safetensors",
    "wan2.2_vae.safetensors": "lighttaew2_2.safetensors",
    1280: 64,
    704: 64,
    49: 9,
    64: 32,
    256: 64,
    512: 32,
    1024: 32,
}
FLOWS = ("sd3", "flux", "qwen")  # how names of flow checkpoints begin
SHORTENED = {
    "Guidance_TrainHSpaceDirection": {"rounds": 1},  # of minutes of training
    "Guidance_SampleSemantic": {"steps": 8},  # with fewer hardly any code has the attribute
}
STEPS, SEARCHED = 5, 16  # the most that a test of a workflow samples, and looks at in a search
LOADERS = ("CheckpointLoaderSimple", "CLIPTextEncode", "Guidance_EncoderFromClipVision")


def on_shipped_models(prompt):
    """A workflow with loaders of weights that we don't ship on our latent or flow model; the rest as it is."""
    replaced = {}
    for key, node in prompt.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "CheckpointLoaderSimple":
            space = "flow" if inputs["ckpt_name"].startswith(FLOWS) else "latent"
            wanted = {
                "model_name": f"scenes_{space}.safetensors",
                "clip_denoised": True,
                "schedule": "auto",
                "heads": "auto",
            }
            replaced[key] = {"class_type": "Guidance_LoadModel", "inputs": wanted}
        elif kind == "CLIPTextEncode":
            wanted = {"model": [inputs["clip"][0], 0], "class_label": SUBSTITUTES.get(inputs["text"], "")}
            replaced[key] = {"class_type": "Guidance_ClassConditioning", "inputs": wanted}
        elif kind == "Guidance_EncoderFromClipVision":
            wanted = {"encoder_name": "scenes_clip.safetensors", "activation": "auto"}
            replaced[key] = {"class_type": "Guidance_LoadEncoder", "inputs": wanted}
        elif kind != "CLIPVisionLoader":
            replaced[key] = node
    loaders = {key for key, node in prompt.items() if node["class_type"] == "CheckpointLoaderSimple"}
    for node in replaced.values():  # MODEL, CLIP, VAE there; MODEL, VAE here
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in loaders and value[1] == 2:
                node["inputs"][name] = [value[0], 1]
    return replaced


def shortened(prompt):
    """The same graph with few steps; a schedule and its parts keep their order. In full: `dev.py workflow`."""
    most = {"steps": STEPS, "samples": SEARCHED}
    for node in prompt.values():
        few = {
            name: min(value, most[name])
            for name, value in node["inputs"].items()
            if name in most and type(value) is int
        }
        if isinstance(spaced := node["inputs"].get("respacing"), str):
            few["respacing"] = re.sub(r"^(ddim|linspace)?[a-z]*\d+$", rf"\g<1>{STEPS}", spaced)
        node["inputs"].update(few | SHORTENED.get(node["class_type"], {}))
    return prompt


def substituted(prompt, values):
    def swap(value):
        return values.get(value, value) if isinstance(value, (str, int)) else value

    return {
        key: {**node, "inputs": {name: swap(value) for name, value in node["inputs"].items()}}
        for key, node in prompt.items()
    }


@pytest.fixture(scope="module")
def random_upsampler(server):
    """Random weights in the layout of ADM's upsamplers, in the server's own model folder."""
    config = network.UNetConfig(
        model_channels=16,
        in_channels=6,
        out_channels=6,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention=(2,),
        num_heads=2,
        groups=4,
        num_classes=len(CLASS_NAMES) + 1,
    )
    folder = server.base / "models" / "guidance_models"
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {
        "architecture": "adm_unet",
        "config": json.dumps(vars(config)),
        "image_size": "64",
        "class_names": json.dumps(CLASS_NAMES),
        "no_class": str(len(CLASS_NAMES)),
    }
    state = golden_files.fill(network.UNet(config), "upsampler.").state_dict()
    save_file(state, folder / "random_upsampler.safetensors", metadata)


@pytest.fixture(scope="module")
def random_glide(server):
    """Random weights in the layouts of GLIDE's base, inpainting base and upsampler, and of its noisy CLIP's halves."""
    models, encoders = (server.base / "models" / f"guidance_{kind}" for kind in ("models", "encoders"))
    for folder in (models, encoders):
        folder.mkdir(parents=True, exist_ok=True)
    shape = {"model_channels": 16, "out_channels": 6, "num_res_blocks": 1, "channel_mult": (1, 2), "attention": (2,)}
    text = {"text_width": 16, "text_layers": 1, "text_heads": 2, "context": 16}
    for channels, side in ((3, 32), (7, 32), (6, 64)):
        config = GlideConfig(**shape, **text, in_channels=channels, num_heads=2, groups=4)
        state = golden_files.fill(GlideUNet(config), "glide.").state_dict()
        metadata = {"architecture": "glide", "config": json.dumps(vars(config)), "image_size": str(side)}
        save_file(state, models / f"random_glide_{channels}.safetensors", metadata)
    shared = {"width": 32, "layers": 1, "heads": 2, "embed_dim": 16}
    image = ImageTower(ImageConfig(**shared, patch_size=8, image_size=32, timesteps=1000))
    words = TextTower(TextConfig(**shared, context=77, vocabulary=49408))
    for half, tower in (("image", image), ("text", words)):
        metadata = {"architecture": f"glide_clip_{half}", "config": json.dumps(vars(tower.config))}
        state = golden_files.fill(tower, "glide_clip.").state_dict()
        save_file(state, encoders / f"random_clip_{half}.safetensors", metadata)


@pytest.fixture(scope="module")
def random_cascades(server, comfy):
    """Random weights in the layouts of Karlo, IF and latent diffusion."""
    cascade_files.write(server.base / "models")


@pytest.fixture(scope="module")
def random_families(server, comfy):
    """Random weights that the host takes for Flux.2 and Wan 2.2, with their VAEs."""
    family_files.write(server.base / "models")


@pytest.fixture(scope="module")
def random_delta_block(server):
    """Random weights in the form of Asyrp's files, as wide as our U-Net."""
    with safe_open(ROOT / "models" / "demo" / "models" / "scenes_unet.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    width = config["model_channels"]
    block = delta_block(DeltaConfig(width * config["channel_mult"][-1], 4 * width, norm_first=True))
    state = golden_files.fill(block, "delta.").state_dict()
    folder = server.base / "models" / "guidance_directions"
    folder.mkdir(parents=True, exist_ok=True)
    content = {"0": {f"layer_0.{key}": value for key, value in state.items()}, "optimizer": {}, "scheduler": {}}
    torch.save(content, folder / "random_delta_block.pth")


@pytest.fixture(scope="module")
def random_attributes(server):
    """Random weights in the form of DiffAE's classifiers, as wide as our codes."""
    with safe_open(ROOT / "models" / "demo" / "models" / "scenes_diffae.safetensors", "pt") as file:
        width = json.loads(file.metadata()["config"])["semantic"]
    folder = server.base / "models" / "guidance_directions"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"classifier.weight": golden_files.draw((40, width), 4), "classifier.bias": golden_files.draw((40,), 5)}
    save_file(weights, folder / "random_attributes.safetensors")


@pytest.fixture(scope="module")
def example_picture(server):
    """The picture that every ComfyUI ships, and those of two shapes, in the server's own input folder."""
    (server.base / "input").mkdir(exist_ok=True)
    shutil.copy(host_folder() / "input" / "example.png", server.base / "input")
    shutil.copy(ROOT / "workflows" / "two_shapes.webp", server.base / "input")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_api_workflow_runs_and_saves_a_picture(
    server,
    random_upsampler,
    random_glide,
    random_cascades,
    random_families,
    random_delta_block,
    random_attributes,
    example_picture,
    path,
):
    prompt = as_one_checkpoint(json.loads(path.read_text("utf-8")))
    kinds = {node["class_type"] for node in prompt.values()}
    foreign = bool(kinds & set(LOADERS)) and "UNETLoader" not in kinds
    prompt = on_shipped_models(prompt) if foreign else family_files.on_small_towers(prompt)
    needs_files = foreign or any(
        value in SUBSTITUTES for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)
    )
    prompt = substituted(prompt, SUBSTITUTES) if needs_files else prompt
    outputs = server.run(shortened(prompt))
    pictures = [png for output in outputs.values() if "images" in output for png in server.images(output)]
    assert pictures
    assert all(np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), float).std() > 5 for png in pictures)
