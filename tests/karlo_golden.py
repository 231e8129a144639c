"""The networks of the golden file of Karlo's decoder and super-resolution, with the weights of its rule."""

import json
from pathlib import Path

import golden_files
import torch
from safetensors.torch import save_file

from pack.guidance.sampling import respaced
from pack.guidance.tensors import append_dims
from pack.models.karlo.network import KarloConfig, KarloDecoder, KarloUpsampler, KarloUpsamplerConfig
from pack.models.schedule import NoiseSchedule

CASE = "unclip_karlo_decoder_16px"
SIDES = {"karlo_decoder": 16, "karlo_upsampler": 32}


def decoder(arguments):
    model = arguments["model"]
    config = KarloConfig(
        model_channels=model["num_channels"],
        out_channels=6,
        num_res_blocks=model["num_res_blocks"],
        channel_mult=(1, 2),
        attention=(2,),
        head_channels=model["num_head_channels"],
        text_width=model["xf_width"],
        clip_width=model["clip_dim"],
        image_tokens=model["clip_emb_mult"],
    )
    return golden_files.fill(KarloDecoder(config), f"{arguments['salt']}decoder.")


def upsampler(arguments):
    model = arguments["sr"]
    config = KarloUpsamplerConfig(
        model_channels=model["channels"],
        out_channels=3,
        in_channels=6,
        num_res_blocks=model["depth"],
        channel_mult=tuple(model["channels_multiple"]),
        attention=(),
        middle_attention=False,
        scale_shift_norm=False,
    )
    return golden_files.fill(KarloUpsampler(config), f"{arguments['salt']}sr.")


def stored(part, name):
    """Puts a network into the folder of the loaders, as one of our own files; returns its name."""
    import folder_paths

    arguments, _ = golden_files.load(CASE)
    network = {"karlo_decoder": decoder, "karlo_upsampler": upsampler}[part](arguments)
    folder = Path(folder_paths.get_folder_paths("guidance_models")[0])
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"architecture": part, "config": json.dumps(vars(network.config)), "image_size": str(SIDES[part])}
    save_file(network.state_dict(), folder / name, metadata)
    folder_paths.filename_list_cache.clear()
    return name


class Published:
    """The golden file as runs in sigma space: models, noise, starts."""

    def __init__(self):
        self.arguments, self.golden = golden_files.load(CASE)
        self.schedule = NoiseSchedule.named("cosine")
        golden = self.golden
        self.half = len(golden["x_T.doubled"]) // 2
        network = decoder(self.arguments)
        texts = [(golden[f"text.{name}"][: self.half], golden[f"text.{name}"][self.half :]) for name in PARTS]
        cond, null = zip(*texts, strict=True)
        self.text = network.read(*cond[:2], cond[2].bool(), golden["image_embedding"])
        self.null = network.read(*null[:2], null[2].bool(), None)
        self.network, self.upsampler = network, upsampler(self.arguments)

    def sigmas(self, respacing):
        return [*reversed(self.schedule.sigmas[respaced(str(respacing))].tolist()), 0.0]

    def noise(self, index):
        shape = tuple(self.golden["x_T.doubled"].shape)
        return golden_files.draw(shape, self.arguments["seed"] + 1000 + index)[: self.half]

    def large_noise(self, index):
        return golden_files.draw(tuple(self.golden["sr.x_T"].shape), self.arguments["seed"] + 3000 + index)

    def scaled(self, x, sigma):
        return x / append_dims(1 + sigma**2, x.ndim) ** 0.5, self.schedule.nearest(sigma)

    def predict(self, x, sigma):
        given, cfg = self.scaled(x, sigma), self.arguments["cfg_scale"]
        eps, v = self.network(*given, self.text).chunk(2, dim=1)
        null = self.network(*given, self.null).chunk(2, dim=1)[0]
        return (x - append_dims(sigma, x.ndim) * (null + cfg * (eps - null))).clamp(-1, 1), v

    def enlarge(self, x, sigma):
        scaled, t = self.scaled(x, sigma)
        eps = self.upsampler(torch.cat([scaled, self.golden["sr.low_res"]], 1), t)
        return (x - append_dims(sigma, x.ndim) * eps).clamp(-1, 1), None


PARTS = ("states", "pooled", "mask")
