"""`python dev.py bench guide_cost`: what a guide costs beside the model it steers.

The host's SD1.5 U-Net with random weights on 64 x 64 latents, cfg 1; a Gram guide on the first three blocks of a CLIP
ViT-B/16, and a TAESD decoder on the latents averaged to about 32 x 32, random too; default views. Process CPU time of
one step without and with the guide, interleaved, one thread. A run of 30 steps with `every` 2 and the default window
looks 12 times: its ratio follows.
"""

from __future__ import annotations

import argparse
import importlib
import json
from typing import Any

import torch

from .guided_step import load_pack
from .host_server import PACK
from .pairs import ratio

SIZE = 64  # of the latents
LOOKS = 12 / 30  # of a run with `every` 2 and the default window, a step
RESULT = PACK / "bench" / "results" / "guide_cost.json"


def unet() -> Any:
    """A MODEL of SD1.5's shape."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 320,
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": (1, 2, 4, 4),
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
            "context_dim": 768,
            "num_heads": 8,
            "use_spatial_transformer": True,
            "legacy": False,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, device=torch.device("cpu"))
    for parameter in model.diffusion_model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.diffusion_model.requires_grad_(False)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def clip_encoder() -> Any:
    """A GUIDANCE_ENCODER of CLIP ViT-B/16's shape."""
    clip: Any = importlib.import_module("pack.models.clip")
    encoder: Any = importlib.import_module("pack.nodes.host.encoder")
    architecture: Any = importlib.import_module("pack.models.architecture")
    text = {"text_width": 512, "text_layers": 12, "text_heads": 8, "text_mlp_ratio": 4.0}
    config = clip.ClipConfig(512, 224, 768, (12,), 16, 64, 4.0, **text, context=77, vocabulary=49408)
    state = clip.build(config).state_dict()
    facts = architecture.Facts(image_size=224)
    return encoder.load_encoder(architecture.Checkpoint("random ViT-B-16", clip.CLIP, config, facts, state))


def tiny_vae() -> Any:
    sight: Any = importlib.import_module("pack.nodes.host.sight")
    taesd = sight.ModelSpaceTAESD()
    for name, parameter in taesd.named_parameters():
        scale = 1 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.0
        torch.nn.init.normal_(parameter, std=scale) if not name.startswith("vae_") else None
    return sight.vae_around(taesd, 4, 8)


def measure(pairs: int) -> dict[str, Any]:
    pack = load_pack()
    import comfy.sample

    model, encoder, vae = unet(), clip_encoder(), tiny_vae()
    image = torch.rand(1, 256, 256, 3)

    def node(name: str, **inputs: Any) -> Any:
        entries = pack[name].define_schema().inputs
        defaults = {entry.id: getattr(entry, "default", None) for entry in entries}
        given = {key: value for key, value in {**defaults, **inputs}.items() if value is not None}
        return pack[name].execute(**given).args[0]

    guide = node("Guidance_StyleGuide", encoder=encoder, image=image, start_percent=0.0, end_percent=1.0)
    latent, cond = torch.zeros(1, 4, SIZE, SIZE), [[torch.randn(1, 77, 768), {}]]
    noise = torch.randn(1, 4, SIZE, SIZE)

    level = torch.tensor([2.0, 0.0])

    def run(model: Any) -> None:
        options = {"sigmas": level, "disable_pbar": True, "seed": 0}
        comfy.sample.sample(model, noise, 1, 1.0, "euler", "normal", cond, cond, latent, **options)

    steered = node("Guidance_ApplyGuides", model=model, guides=guide, tiny_vae=vae)
    weights = sum(p.numel() for part in (encoder.patchers[0].model, vae.first_stage_model) for p in part.parameters())
    step = ratio(lambda: run(model), lambda: run(steered), pairs)
    return {
        "latents": [SIZE, SIZE],
        "cfg": 1.0,
        "guide_weights_mb": round(weights * 4 / 2**20, 1),
        "step_that_looks": step,
        "run_with_every_2": round(1 + LOOKS * (step["median"] - 1), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench guide_cost")
    parser.add_argument("--pairs", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        result = measure(given.pairs)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
