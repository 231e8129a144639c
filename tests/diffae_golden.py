"""The golden file of phizaz/diffae: network, and its loops in sigma space."""

import dataclasses

import golden_files

from pack.guidance.inversion import stochastic_code
from pack.guidance.latents import sample_prior
from pack.guidance.sampling import respaced, sample_ddim
from pack.guidance.tensors import append_dims
from pack.models.diffae.network import DiffAEConfig, DiffusionAutoencoder, LatentConfig
from pack.models.schedule import NoiseSchedule

CASE = "diffae_16px"


def config(arguments):
    model, latent = arguments["model"], arguments["latent_net"]
    attention = tuple(arguments["image_size"] // resolution for resolution in model["attention_resolutions"])
    return DiffAEConfig(
        model_channels=model["model_channels"],
        out_channels=3,
        num_res_blocks=model["num_res_blocks"],
        channel_mult=tuple(model["channel_mult"]),
        attention=attention,
        num_heads=model["num_heads"],
        semantic=model["enc_out_channels"],
        encoder_mult=tuple(model["enc_channel_mult"]),
        encoder_res_blocks=model["enc_num_res_block"],
        latent=LatentConfig(latent["num_hid_channels"], latent["num_layers"], latent["num_time_emb_channels"]),
    )


class Published:
    """The golden file as runs in sigma space, clipped as in the published code."""

    def __init__(self):
        self.arguments, self.golden = golden_files.load(CASE)
        self.config = config(self.arguments)
        self.network = golden_files.fill(DiffusionAutoencoder(self.config), self.arguments["salt"])
        self.schedule = NoiseSchedule.named("linear")
        self.respacing = f"ddim{self.arguments['T']}"
        self.timesteps = respaced(self.respacing)
        self.rising = self.schedule.sigmas[self.timesteps].tolist()
        self.sigmas = [*reversed(self.rising), 0.0]

    @property
    def metadata(self):
        """Of our own files, without what the loaders find by themselves."""
        return {"architecture": "diffae", "config": dataclasses.asdict(self.config), "image_size": "16"}

    def denoise(self, x, sigma, z_sem=None):
        """Clipped prediction, given the codes of the golden picture if there are no others."""
        z_sem = self.golden["z_sem"] if z_sem is None else z_sem
        t = (self.schedule.sigmas.to(sigma).log()[None] - sigma.log()[:, None]).abs().argmin(1)
        sigma = append_dims(sigma, x.ndim)
        return (x - sigma * self.network(x / (1 + sigma**2) ** 0.5, t, z_sem)).clamp(-1, 1)

    def encode(self):
        """x_T of the golden picture."""
        return stochastic_code(self.denoise, self.golden["image"] * (1 + self.rising[0] ** 2) ** 0.5, self.rising)

    def decode(self, x_T):  # noqa: N803
        start = x_T * (1 + self.sigmas[0] ** 2) ** 0.5
        return sample_ddim(lambda x, sigma: (self.denoise(x, sigma), None), start, self.sigmas, lambda index: x_T)

    def sample_latent(self):
        schedule = NoiseSchedule.named("const0.008")
        return sample_prior(self.network.latent_net, self.golden["latent.noise"], self.timesteps, schedule.sigmas)
