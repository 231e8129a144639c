"""The networks of the golden file of DeepFloyd's IF, with the weights of its rule."""

import json
from pathlib import Path

import golden_files
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from pack.guidance.cfg_result import DynamicThreshold
from pack.guidance.sampling import respaced
from pack.guidance.tensors import append_dims
from pack.models.imagen.network import SCALE, ImagenConfig, ImagenUNet
from pack.models.schedule import NoiseSchedule

CASE = "if_cascade_16px"
SIDES = {"one": 16, "two": 32}
STAGE = {
    "one": {"num_res_blocks": 1},
    "two": {
        "num_res_blocks": (1, 2),
        "in_channels": 6,
        "text_only": (2,),
        "activate_once": True,
        "residual_scale": SCALE,
        "augments": True,
    },
}


def config(arguments, stage):
    common = arguments["common"]
    return ImagenConfig(
        model_channels=common["model_channels"],
        out_channels=common["out_channels"],
        channel_mult=(1, 2),
        attention=(2,),
        head_channels=common["num_head_channels"],
        activation=common["activation"],
        t5_width=common["encoder_dim"],
        text_width=common["encoder_channels"],
        text_norm=True,
        pool_heads=common["att_pool_heads"],
        context=7,
        **STAGE[stage],
    )


def unet(arguments, stage):
    return golden_files.fill(ImagenUNet(config(arguments, stage)), f"{arguments['salt']}{stage}.")


def stored(stage, name):
    """Puts a network into the folder of the loaders, as one of our own files; returns its name."""
    import folder_paths

    arguments, _ = golden_files.load(CASE)
    network = unet(arguments, stage)
    folder = Path(folder_paths.get_folder_paths("guidance_models")[0])
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"architecture": "imagen", "config": json.dumps(vars(network.config)), "image_size": str(SIDES[stage])}
    save_file(network.state_dict(), folder / name, metadata)
    folder_paths.filename_list_cache.clear()
    return name


def clipped(x, percentile, cap):
    """Dynamic thresholding; a cap of 1 is the plain clamp."""
    return DynamicThreshold(percentile, cap)(x, None, {})


class Published:
    """The golden file as runs in sigma space."""

    def __init__(self, stage):
        self.arguments, self.golden = golden_files.load(CASE)
        self.stage, self.network = stage, unet(self.arguments, stage)
        self.schedule = NoiseSchedule.named("cosine")
        prefix = "" if stage == "one" else "two_"
        kept = self.schedule.sigmas[respaced(str(self.arguments[f"{prefix}respacing"]))].tolist()
        self.sigmas = [*reversed(kept), 0.0]
        self.scale = self.arguments[f"{prefix}cfg_scale"]
        doubled = self.golden[f"{stage}.x_T.doubled"]
        self.shape, self.half = tuple(doubled.shape), len(doubled) // 2
        self.x_T = doubled[: self.half] * (1 + self.sigmas[0] ** 2) ** 0.5
        self.calls = 0

    def noise(self, index):
        first = self.arguments["seed"] + (1000 if self.stage == "one" else 3000)
        rows = self.rows if hasattr(self, "rows") else 2
        return golden_files.draw((rows * self.half, *self.shape[1:]), first + index)[: self.half]

    @property
    def texts(self):
        """What is wanted, and the null."""
        return self.golden["text"], self.golden["null"].expand(self.half, -1, -1)

    def scaled(self, x, sigma):
        return x / append_dims(1 + sigma**2, x.ndim) ** 0.5, self.schedule.nearest(sigma)

    def small(self, noise):
        """The small picture, enlarged and noised."""
        up = interpolate(self.golden["two.low_res"], self.shape[2:], mode="bilinear", align_corners=True)
        level = self.schedule.alphas_cumprod[self.step].float()
        return level**0.5 * up + (1 - level) ** 0.5 * noise

    @property
    def step(self):
        return int(1000 * self.arguments["aug_level"])

    def eps(self, x, sigma, states, noise=None):
        scaled, t = self.scaled(x, sigma)
        if noise is None:
            return self.network(scaled, t, self.network.read(states)).chunk(2, dim=1)
        text = self.network.read(states, torch.full((len(x),), self.step))
        return self.network(torch.cat([scaled, self.small(noise)], 1), t, text).chunk(2, dim=1)

    def predict(self, x, sigma, cap, noises=(None, None), positive=None):
        """CFG with two or three texts, then the threshold."""
        wanted, null = self.texts
        eps, v = self.eps(x, sigma, wanted, noises[0])
        uncond = self.eps(x, sigma, null, noises[1])[0]
        if positive is not None:
            share = self.arguments["positive_mixer"]
            eps = (1 - share) * eps + share * self.eps(x, sigma, positive)[0]
        eps = uncond + self.scale * (eps - uncond)
        return clipped(x - append_dims(sigma, x.ndim) * eps, self.arguments["threshold_p"], cap), v
