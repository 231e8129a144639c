"""Latent diffusion's class-conditional U-Net prints what CompVis/latent-diffusion printed."""

import golden_files
import torch
from ldm_golden import CASE, checkpoint, config

from pack.models import ldm
from pack.models.ldm.network import ClassUNet
from pack.models.schedule import NoiseSchedule


def network(arguments):
    found = ClassUNet(config(arguments))
    found.load_state_dict(ldm.parted(checkpoint(), "golden")[0])
    return found.eval().requires_grad_(False)


def test_the_forward_is_the_published_one():
    arguments, golden = golden_files.load(CASE)
    unet = network(arguments)
    out = unet(golden["forward.x"], golden["forward.t"], unet.read(golden["y"]))
    assert golden_files.relative_error(out, golden["forward.out"]) < 1e-5


@torch.no_grad()
def test_whole_runs_are_the_published_ones():
    """Its DDIM ends at the chain's first level, not at 0: the VP state there is what is stored."""
    from pack.guidance.sampling import ddim_step, transitions

    arguments, golden = golden_files.load(CASE)
    unet, schedule = network(arguments), NoiseSchedule.named("latent")
    half = len(golden["x_T"])
    texts = [unet.read(golden["y"][:half]), unet.read(torch.full((half,), arguments["classes"] - 1))]
    levels = [*reversed(schedule.sigmas[golden["timesteps"]].tolist()), schedule.sigmas[0].item()]
    for name, eta in (("ddim_eta0", 0.0), ("ddim_eta1", 1.0)):
        x = golden["x_T"] * (1 + levels[0] ** 2) ** 0.5
        for index, step in enumerate(transitions(levels)):
            t = schedule.nearest(torch.tensor([step.s])).expand(half)
            cond, null = (unet(x / (1 + step.s**2) ** 0.5, t, text) for text in texts)
            denoised = x - step.s * (null + arguments["cfg_scale"] * (cond - null))
            noise = golden_files.draw(tuple(x.shape), arguments["seed"] + 1000 + index)
            x = ddim_step(x, denoised, step, eta, noise if eta else None)
        final = x / (1 + levels[-1] ** 2) ** 0.5
        assert golden_files.relative_error(final, golden[name]) < 1e-3, name
