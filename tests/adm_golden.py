"""The networks of the two ADM golden files, and everything a trajectory of theirs needs."""

import golden_files

from pack.guidance.classifier_energy import ClassifierEnergy
from pack.guidance.gradient import gradient
from pack.guidance.sampling import respaced
from pack.guidance.tensors import append_dims
from pack.models.adm import network as adm
from pack.models.schedule import NoiseSchedule

CASES = ("adm_uncond_learned_sigma", "adm_classcond_cosine_fixed")
RENAMED = {
    "attention_resolutions": "attention",
    "num_head_channels": "head_channels",
    "use_scale_shift_norm": "scale_shift_norm",
}


def encoder_arguments(published):
    arguments = {"scale_shift_norm": False, "resblock_updown": False, **published}
    arguments = {RENAMED.get(key, key): value for key, value in arguments.items()}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}


def unet(arguments):
    outputs = 6 if arguments["diffusion"]["learn_sigma"] else 3
    config = adm.UNetConfig(out_channels=outputs, **encoder_arguments(arguments["unet"]))
    return golden_files.fill(adm.UNet(config), arguments["salt"] + "unet.")


def classifier(arguments):
    shared = encoder_arguments(arguments["classifier"])
    config = adm.ClassifierConfig(image_size=16, out_channels=arguments["num_classes"], **shared)
    return golden_files.fill(adm.Classifier(config), arguments["salt"] + "classifier.")


class Published:
    """One golden file as a run in sigma space: x_T, sigmas, noise, model and classifier gradient."""

    def __init__(self, case):
        self.case = case
        self.arguments, self.golden = golden_files.load(case)
        self.unet, self.classifier = unet(self.arguments), classifier(self.arguments)
        self.schedule = NoiseSchedule.named(self.arguments["diffusion"]["noise_schedule"])
        self.timesteps = respaced(self.arguments["diffusion"]["timestep_respacing"])
        kept = self.schedule.sigmas[self.timesteps].tolist()
        self.sigmas = [*reversed(kept), 0.0]
        self.x_T = self.golden["x_T"] * (1 + self.sigmas[0] ** 2) ** 0.5

    def noise(self, index):
        return golden_files.draw(tuple(self.x_T.shape), self.arguments["seed"] + 1000 + index)

    def at(self, sigma):
        """Timesteps of sigmas."""
        table = self.schedule.sigmas.to(sigma)
        return (table.log()[None] - sigma.log()[:, None]).abs().argmin(1)

    def scaled(self, x, sigma):
        return x / append_dims(1 + sigma**2, x.ndim) ** 0.5

    def predict(self, x, sigma):
        y = self.golden["y"] if self.unet.config.num_classes else None
        out = self.unet(self.scaled(x, sigma), self.at(sigma), y)
        eps, v = out.chunk(2, dim=1) if out.shape[1] == 6 else (out, None)
        denoised = x - append_dims(sigma, x.ndim) * eps
        return denoised.clamp(-1, 1) if self.arguments["clip_denoised"] else denoised, v

    def logits(self, x, sigma):
        return self.classifier(self.scaled(x, sigma), self.at(sigma))

    def gradient(self, x, sigma):
        energy = ClassifierEnergy(self.logits, self.golden["y"], (self.arguments["num_classes"],))
        return -self.arguments["classifier_scale"] * gradient(energy, x, sigma)

    def tolerance(self, guided):
        """Of a whole run, at most ten times what it reaches: values at the border of the clip are those that differ."""
        if not self.arguments["clip_denoised"]:
            return 5e-6
        return 1e-3 if guided == "guided" else 1e-4
