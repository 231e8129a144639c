"""`python dev.py bench guide_cost`: what a guide costs beside the model it steers.

The host's SD1.5 U-Net with random weights on 64 x 64 latents, cfg 1; a Gram guide on the first three blocks of a CLIP
ViT-B/16, and a TAESD decoder on the latents averaged to about 32 x 32, random too; default views. Process CPU time of
one step without and with the guide, interleaved, one thread. A run of 30 steps with `every` 2 and the default window
looks 12 times: its ratio follows.

Memory is the most that a fresh process ever held, for a plain step and for a guided one. What the guide may take is its
weights and the most that its own gradient needs, measured in a process without the U-Net.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

from .guided_step import load_pack
from .host_server import PACK
from .pairs import ratio

SIZE = 64  # of the latents
LOOKS = 12 / 30  # of a run with `every` 2 and the default window, a step
RESULT = PACK / "bench" / "results" / "guide_cost.json"


def unet(channels: int = 320, device: str = "cpu") -> Any:
    """A MODEL of SD1.5's shape, its weights on that device."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": channels,
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
    model = comfy.model_base.BaseModel(config, device=torch.device(device))
    for parameter in model.diffusion_model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.diffusion_model.requires_grad_(False)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def clip_encoder() -> Any:
    """A GUIDANCE_ENCODER of CLIP ViT-B/16's shape."""
    clip: Any = importlib.import_module("pack.models.clip")
    encoder: Any = importlib.import_module("pack.nodes.host.guides.encoder")
    architecture: Any = importlib.import_module("pack.models.architecture")
    text = {"text_width": 512, "text_layers": 12, "text_heads": 8, "text_mlp_ratio": 4.0}
    config = clip.ClipConfig(512, 224, 768, (12,), 16, 64, 4.0, **text, context=77, vocabulary=49408)
    state = clip.build(config).state_dict()
    facts = architecture.Facts(image_size=224)
    return encoder.load_encoder(architecture.Checkpoint("random ViT-B-16", clip.CLIP, config, facts, state))


def tiny_vae() -> Any:
    pictures: Any = importlib.import_module("pack.nodes.host.pictures")
    taesd = pictures.ModelSpaceTAESD()
    for name, parameter in taesd.named_parameters():
        scale = 1 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.0
        torch.nn.init.normal_(parameter, std=scale) if not name.startswith("vae_") else None
    return pictures.vae_around(taesd, 4, 8)


class Bench:
    """Plain and guided steps of one picture, and the guide's gradient alone."""

    def __init__(self) -> None:
        self.pack = load_pack()
        self.conditioning = [[torch.randn(1, 77, 768), {}]]
        self.noise = torch.randn(1, 4, SIZE, SIZE)

    def node(self, name: str, **inputs: Any) -> Any:
        entries = self.pack[name].define_schema().inputs
        defaults = {entry.id: getattr(entry, "default", None) for entry in entries}
        given = {key: value for key, value in {**defaults, **inputs}.items() if value is not None}
        return self.pack[name].execute(**given).args[0]

    def guide(self) -> tuple[Any, Any, Any]:
        """Style guide, decoder, and their encoder."""
        encoder, vae = clip_encoder(), tiny_vae()
        image = torch.rand(1, 256, 256, 3)
        guides = self.node("Guidance_StyleGuide", encoder=encoder, image=image, start_percent=0.0, end_percent=1.0)
        return guides, vae, encoder

    def guided(self, model: Any, guides: Any, vae: Any) -> Any:
        return self.node("Guidance_ApplyGuides", model=model, guides=guides, tiny_vae=vae)

    def step(self, model: Any) -> None:
        import comfy.sample

        options = {"sigmas": torch.tensor([2.0, 0.0]), "disable_pbar": True, "seed": 0}
        empty = torch.zeros_like(self.noise)
        cond = self.conditioning
        comfy.sample.sample(model, self.noise, 1, 1.0, "euler", "normal", cond, cond, empty, **options)


class Silence(torch.nn.Module):
    """A network that costs nothing: what is left of a guided step is the guide."""

    dtype = torch.float32

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.zeros_like(x)


def plain_step() -> None:
    bench = Bench()
    bench.step(unet())


def guided_step() -> None:
    bench = Bench()
    guides, vae, _ = bench.guide()
    bench.step(bench.guided(unet(), guides, vae))


def guide_alone() -> None:
    bench = Bench()
    guides, vae, _ = bench.guide()
    model = unet(channels=32)
    model.model.diffusion_model = Silence()
    bench.step(bench.guided(model, guides, vae))


def nothing() -> None:
    Bench()


PARTS: dict[str, Callable[[], None]] = {
    "nothing": nothing,
    "plain_step": plain_step,
    "guided_step": guided_step,
    "guide_alone": guide_alone,
}


def peak_mb(part: str) -> float:
    """The most that a fresh process doing this part held, in MB."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.guide_cost", "--part", part], cwd=PACK, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def memory() -> dict[str, float]:
    """What a guided step holds above a plain one, and what weights and activations of the guide allow."""
    peaks = {part: peak_mb(part) for part in PARTS}
    return {
        **{f"{part}_mb": value for part, value in peaks.items()},
        "above_plain_mb": round(peaks["guided_step"] - peaks["plain_step"], 1),
        "allowed_mb": round(peaks["guide_alone"] - peaks["nothing"], 1),
    }


def measure(pairs: int) -> dict[str, Any]:
    bench, plain = Bench(), unet()
    guides, vae, encoder = bench.guide()
    steered = bench.guided(plain, guides, vae)
    weights = sum(p.numel() for part in (encoder.patchers[0].model, vae.first_stage_model) for p in part.parameters())
    step = ratio(lambda: bench.step(plain), lambda: bench.step(steered), pairs)
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
    parser.add_argument("--part", choices=PARTS, help="do this alone and print the most memory held, in MB")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        if given.part:
            PARTS[given.part]()
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        result = {"memory": memory(), **measure(given.pairs)}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
