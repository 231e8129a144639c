"""The two Asyrp golden files: networks, and everything a trajectory of theirs needs."""

import golden_files
import torch
from adm_golden import encoder_arguments

from pack.guidance.sampling import respaced
from pack.guidance.tensors import append_dims
from pack.models.adm import network as adm
from pack.models.asyrp.network import DeltaConfig, delta_block
from pack.models.ddpm import network as ddpm
from pack.models.schedule import NoiseSchedule

CASES = ("asyrp_ddpm_16px", "asyrp_improved_ddpm_16px")


def config(arguments):
    model = dict(arguments["model"])
    size = arguments["image_size"]
    if arguments["family"] == "ddpm":
        levels = [level for level in range(len(model["ch_mult"])) if size >> level in model["attn_resolutions"]]
        return ddpm.DDPMConfig(model["ch"], tuple(model["ch_mult"]), model["num_res_blocks"], tuple(levels))
    del model["image_size"]
    return adm.UNetConfig(**encoder_arguments(model))


def network(arguments):
    family = ddpm.DDPM if arguments["family"] == "ddpm" else adm.UNet
    return golden_files.fill(family(config(arguments)), arguments["salt"])


class Wrapped(torch.nn.Module):
    """A delta block under the name that the published networks have for it."""

    def __init__(self, block):
        super().__init__()
        self.layer_0 = block


def delta_network(arguments, channels, embedding):
    block = delta_block(DeltaConfig(channels, embedding, arguments["family"] != "ddpm"))
    return golden_files.fill(Wrapped(block), arguments["salt"]).layer_0


class Published:
    """One golden file as a run in sigma space."""

    def __init__(self, case):
        self.arguments, self.golden = golden_files.load(case)
        self.network = network(self.arguments)
        self.schedule = NoiseSchedule.named("linear")
        self.timesteps = respaced(f"linspace{self.arguments['steps']}")
        self.rising = self.schedule.sigmas[self.timesteps].tolist()
        self.sigmas = [*reversed(self.rising), 0.0]
        falling = list(reversed(self.timesteps))
        self.boosted = next(index for index, t in enumerate(falling) if t < self.arguments["t_boost"])

    def noise(self, index):
        """Of step `index`: Asyrp draws noise at boosted steps only, so these are counted from the first of them."""
        shape = tuple(self.golden["image"].shape)
        return golden_files.draw(shape, self.arguments["seed"] + 1000 + index - self.boosted)

    def scale(self, sigma):
        """From x_t to x = x_t sqrt(1 + sigma^2)."""
        return (1 + sigma**2) ** 0.5

    def denoise(self, x, sigma):
        table = self.schedule.sigmas.to(sigma)
        t = (table.log()[None] - sigma.log()[:, None]).abs().argmin(1)
        eps = self.network(x / append_dims(self.scale(sigma), x.ndim), t)[:, :3]
        return x - append_dims(sigma, x.ndim) * eps

    def predict(self, x, sigma):
        return self.denoise(x, sigma), None
