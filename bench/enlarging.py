"""`python dev.py bench enlarging`: the small upsampler, 32 pixels to 64, against bicubic enlarging.

Scenes of 32 pixels, with noise of several deviations on them, enlarged and compared with the same scenes rendered at
64: SSIM and mean squared error in [0, 1]. 25 steps of euler_ancestral, no classifier-free guidance. Once the small
pictures are rendered; once, as in a cascade, the small model of texts drew them: a rendered scene with noise up to a
share of the schedule, drawn again with its caption (Meng et al. 2022, arXiv 2108.01073), so that the truth at 64 pixels
is still known. Noise on these is what noise augmentation of a cascade is (Ho et al. 2021, arXiv 2106.15282). Writes
`bench/results/enlarging.json` and a plot.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import matplotlib
import torch
from kornia.metrics import ssim
from torch import Tensor
from torch.nn.functional import interpolate

from training.scenes import render

from . import made_with
from .host_server import PACK
from .pack import Pack, ksampler
from .text_model import captioned, noise_of

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

RESULTS = PACK / "bench" / "results"
CLEAN, NOISY = 128, 64  # scenes without noise and with each deviation
NOISES = (0.0, 0.05, 0.1, 0.2, 0.4)  # deviations on the small pictures, in the units of [-1, 1]
DRAWN = 32  # scenes of the cascade
CASCADE_NOISES = (0.0, 0.05, 0.1, 0.2)
REDRAWN = 0.5  # share of the schedule
STEPS, SAMPLER = 25, "euler_ancestral"


def enlarge(pack: Pack, small: Tensor, captions: list[str], noise: Tensor) -> Tensor:
    """[B 3 32 32] in [-1, 1] and a caption each -> [B 3 64 64]."""
    model = pack.node("Guidance_LoadModel", model_name="scenes_upsampler.safetensors")[0]
    found = []
    for picture, caption, start in zip(small, captions, noise, strict=True):
        (told,) = pack.node("Guidance_TextConditioning", model=model, text=caption)
        image = picture.movedim(0, -1)[None].add(1).div(2)
        (told,) = pack.node("Guidance_UpscaleConditioning", conditioning=told, image=image)
        found.append(ksampler(model, 1.0, told, told, start[None], STEPS, SAMPLER))
    return torch.cat(found)


def redrawn(pack: Pack, small: Tensor, captions: list[str], noise: Tensor) -> Tensor:
    """The same [B 3 32 32] out of noise at REDRAWN of the schedule, as the first stage draws them."""
    import comfy.sample

    model = pack.node("Guidance_LoadModel", model_name="scenes_text.safetensors")[0]
    (null,) = pack.node("Guidance_TextConditioning", model=model, text="")
    options = {"denoise": REDRAWN, "disable_pbar": True, "seed": 0}
    found = []
    for picture, caption, start in zip(small, captions, noise, strict=True):
        (told,) = pack.node("Guidance_TextConditioning", model=model, text=caption)
        given = (model, start[None], STEPS, 3.0, "euler", "normal", told, null, picture[None])
        found.append(comfy.sample.sample(*given, **options))
    return torch.cat(found)


def likeness(images: Tensor, truth: Tensor) -> dict[str, float]:
    a, b = (part.clamp(-1, 1).add(1).div(2) for part in (images, truth))
    return {"ssim": round(ssim(a, b, 11).mean().item(), 4), "mse": round((a - b).square().mean().item(), 6)}


def measured(pack: Pack) -> dict[str, Any]:
    drawn, captions = captioned(CLEAN, 45)
    small, large = render(drawn, 32).image, render(drawn, 64).image
    start = noise_of(CLEAN, 3, 64, 64, seed=46)

    def cell(small: Tensor, deviation: float) -> dict[str, dict[str, float]]:
        count = len(small)
        noisy = (small + deviation * noise_of(count, 3, 32, 32, seed=47)).clamp(-1, 1)
        plain = interpolate(noisy, scale_factor=2, mode="bicubic", align_corners=False)
        found = {
            "upsampler": likeness(enlarge(pack, noisy, captions[:count], start[:count]), large[:count]),
            "bicubic": likeness(plain, large[:count]),
        }
        print(deviation, found, file=sys.stderr, flush=True)
        return found

    drawn_small = redrawn(pack, small[:DRAWN], captions[:DRAWN], noise_of(DRAWN, 3, 32, 32, seed=48)).clamp(-1, 1)
    return {
        "drawn": {str(deviation): cell(drawn_small, deviation) for deviation in CASCADE_NOISES},
        "noise": {str(deviation): cell(small[: NOISY if deviation else CLEAN], deviation) for deviation in NOISES},
    }


def plot(found: dict[str, Any]) -> None:
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for axis, key, title in zip(axes, ("noise", "drawn"), ("rendered", "drawn by the first stage"), strict=True):
        cells = found[key]
        for name in ("upsampler", "bicubic"):
            axis.plot([float(key) for key in cells], [cell[name]["ssim"] for cell in cells.values()], "o-", label=name)
        axis.set_title(f"small pictures {title}")
        axis.set_xlabel("deviation of the noise on the small picture, in [-1, 1]")
        axis.legend()
    axes[0].set_ylabel("SSIM to the scene at 64 pixels")
    figure.tight_layout()
    figure.savefig(RESULTS / "enlarging.png", dpi=90)
    pyplot.close(figure)


def main() -> None:
    torch.set_num_threads(1)
    made = made_with.hashes((made_with.UPSAMPLER, made_with.TEXT))
    with torch.inference_mode():
        found = {"made_with": made, **measured(Pack())}
    plot(found)
    made_with.record(RESULTS / "enlarging.png", made)
    (RESULTS / "enlarging.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
