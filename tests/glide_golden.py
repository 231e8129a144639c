"""The networks of the golden file of GLIDE, with the weights of its rule."""

import json
from pathlib import Path

import golden_files
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate, normalize

from pack.guidance.sampling import respaced
from pack.guidance.tensors import append_dims
from pack.models.glide.network import GlideConfig, GlideUNet
from pack.models.glide_clip.network import ImageConfig, ImageTower, TextConfig, TextTower
from pack.models.schedule import NoiseSchedule

CASE = "glide_16px"
INPUTS = {"base.": 3, "inpaint.": 7, "upsample.": 6}


def config(arguments, channels):
    return GlideConfig(
        model_channels=arguments["model_channels"],
        out_channels=6,
        in_channels=channels,
        num_res_blocks=arguments["num_res_blocks"],
        channel_mult=tuple(arguments["channel_mult"]),
        attention=tuple(arguments["attention_ds"]),
        head_channels=arguments["num_head_channels"],
        text_width=arguments["xf_width"],
        text_layers=arguments["xf_layers"],
        text_heads=arguments["xf_heads"],
        context=arguments["text_ctx"],
    )


def unet(part, arguments):
    """The network whose keys are salted with `part`, one of INPUTS."""
    return golden_files.fill(GlideUNet(config(arguments, INPUTS[part])), arguments["salt"] + part)


def tokens(golden):
    """As the network takes them: -1 behind the end."""
    return torch.where(golden["mask"].bool(), golden["tokens"], -1)


def beside(part, golden):
    """What stands beside x in the input."""
    if part == "inpaint.":
        mask = golden["inpaint.mask"]
        return [golden["inpaint.image"] * mask, mask]
    if part == "upsample.":
        return [interpolate(golden["upsample.low_res"], 16, mode="bilinear", align_corners=False)]
    return []


def stored(part, name):
    """Puts the network into the folder of the loaders, as one of our own files; returns its name."""
    import folder_paths

    arguments, _ = golden_files.load(CASE)
    folder = Path(folder_paths.get_folder_paths("guidance_models")[0])
    folder.mkdir(parents=True, exist_ok=True)
    network = unet(part, arguments)
    metadata = {"architecture": "glide", "config": json.dumps(vars(network.config)), "schedule": "cosine"}
    save_file(network.state_dict(), folder / name, {**metadata, "image_size": "16"})
    folder_paths.filename_list_cache.clear()
    return name


class Published:
    """The golden file as a run in sigma space: model, noise, x_T of the kept half of the doubled batch."""

    def __init__(self):
        self.arguments, self.golden = golden_files.load(CASE)
        self.network = unet("base.", self.arguments)
        self.schedule = NoiseSchedule.named("cosine")
        kept = self.schedule.sigmas[respaced(str(self.arguments["respacing"]))].tolist()
        self.sigmas = [*reversed(kept), 0.0]
        half = self.golden["x_T.doubled"][: len(self.golden["tokens"])]
        self.x_T = half * (1 + self.sigmas[0] ** 2) ** 0.5
        self.text = self.network.read(tokens(self.golden))
        self.null = self.network.read(torch.full_like(self.golden["tokens"], -1))

    def noise(self, index):
        shape = tuple(self.golden["x_T.doubled"].shape)
        return golden_files.draw(shape, self.arguments["seed"] + 1000 + index)[: len(self.x_T)]

    def scaled(self, x, sigma):
        return x / append_dims(1 + sigma**2, x.ndim) ** 0.5, self.schedule.nearest(sigma)

    def predict(self, x, sigma, cfg):
        given = self.scaled(x, sigma)
        eps, v = self.network(*given, self.text).chunk(2, dim=1)
        if cfg != 1:
            null = self.network(*given, self.null).chunk(2, dim=1)[0]
            eps = null + cfg * (eps - null)
        return (x - append_dims(sigma, x.ndim) * eps).clamp(-1, 1), v

    def gradient(self, image_tower):
        """3 times that of 100 cosines, in x = x_t sqrt(1 + sigma^2)."""

        def grad(x, sigma):
            with torch.enable_grad():
                x = x.detach().requires_grad_(True)
                seen = normalize(image_tower.embed(*self.scaled(x, sigma)), dim=1)
                similar = (seen * self.golden["clip.text_embedding"]).sum()
                return 100 * self.arguments["clip_scale"] * torch.autograd.grad(similar, x)[0]

        return grad


def towers(arguments, vocabulary=300):
    """The noisy CLIP: image and text tower."""
    shared = {"width": 64, "layers": 2, "heads": 2, "embed_dim": 48}
    image = ImageTower(ImageConfig(**shared, patch_size=4, image_size=arguments["image_size"], timesteps=1000))
    text = TextTower(TextConfig(**shared, context=16, vocabulary=vocabulary))
    salt = arguments["salt"]
    return golden_files.fill(image, f"{salt}clip_image."), golden_files.fill(text, f"{salt}clip_text.")
