"""Guided runs of the shipped models at random settings: no NaN, and no prediction far from the data."""

import random
from dataclasses import replace

import pytest
import torch
from guided_sampling import applied, guide_of

from pack.guidance.weight import Weight

pytestmark = pytest.mark.host
NOISY = ["text", "content", "style", "structure"]  # measured by the noise-aware encoder
SAMPLERS = ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde", "dpmpp_2m_sde", "ddim", "ddpm", "lcm"]
SCHEDULES = ["linear", "zero SNR v", "flow", "flow with shift"]
FURTHEST = 128 * 0.5  # deviations of pictures, for each guide


def setting(rng):
    schedule = rng.choice(SCHEDULES)
    paper = rng.random() < 0.6
    return {
        "guides": rng.sample([*NOISY, "palette"], rng.choice([1, 1, 2])),
        "weight": 10 ** rng.uniform(-1, 3) * rng.choice([1, 1, -1]),
        "gradient": rng.choice(["auto", "auto", "at denoised", "at denoised optimised"]),
        "unit": "paper" if paper else rng.choice(["auto", "lambda"]),
        "cap": rng.choice([0.0, 0.3, 1.0, 3.0]),
        "window": sorted(rng.choice([(0.0, 1.0), (0.0, 1.0), (rng.random(), rng.random())])),
        "sampler": rng.choice([name for name in SAMPLERS if not (name == "ddpm" and schedule.startswith("flow"))]),
        "steps": rng.randint(4, 10),
        "schedule": schedule,
        "denoise": rng.choice([1.0, rng.uniform(0.2, 1.0)]),
        "masked": rng.random() < 0.3,
        "batch": rng.choice([1, 2]),
        "seed": rng.randrange(10**6),
    }


def model_of(models, schedule):
    """A shipped MODEL under that schedule; as a v model it predicts nothing in particular, but stays as large."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3

    if schedule.startswith("flow"):
        model = models["scenes_flow"][0]
        return ModelSamplingSD3().patch(model, 3.0)[0] if "shift" in schedule else model
    model = models["scenes_unet"][0]
    return ModelSamplingDiscrete().patch(model, "v_prediction", True)[0] if "v" in schedule else model


def guided(execute, encoder, models, how):
    """(largest |D| as a root mean square over pictures and steps, the end) of a run."""
    import comfy.sample

    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1
    changed = {"weight": Weight(how["weight"], *how["window"]), "mask": mask if how["masked"] else None}
    guides = [replace(guide, **changed) for kind in how["guides"] for guide in guide_of(execute, encoder, kind)]
    wanted = {key: how[key] for key in ("gradient", "unit", "cap")}
    model = applied(execute, model_of(models, how["schedule"]), guides, strength=1.0, **wanted)
    (cond,) = execute("Guidance_ClassConditioning", model=model, class_label="")
    generator = torch.Generator().manual_seed(how["seed"])
    noise = torch.randn(how["batch"], 3, 32, 32, generator=generator)
    latent = 0.5 * torch.randn(how["batch"], 3, 32, 32, generator=generator).clamp(-2, 2) * (how["denoise"] < 1)
    seen = []
    with torch.inference_mode():
        end = comfy.sample.sample(
            model,
            noise,
            how["steps"],
            1.0,
            how["sampler"],
            "normal",
            cond,
            cond,
            latent,
            denoise=how["denoise"],
            seed=how["seed"],
            disable_pbar=True,
            callback=lambda step, denoised, x, total: seen.append(
                denoised.square().flatten(1).mean(1).sqrt().max().item()
            ),
        )
    return max(seen), end


@pytest.mark.parametrize("start, count", [(0, 6), pytest.param(100, 120, marks=pytest.mark.slow)])
def test_a_run_of_any_setting_stays_finite_and_near_the_data(execute, encoder, models, start, count):
    for number in range(start, start + count):
        how = setting(random.Random(number))
        largest, end = guided(execute, encoder, models, how)
        assert torch.isfinite(end).all() and largest <= (1 + len(how["guides"]) * FURTHEST) * 1.001, (how, largest)
