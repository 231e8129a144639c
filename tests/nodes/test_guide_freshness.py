"""When guides look: at each evaluation of the model, or, with `every` above 1, at each k-th step."""

import pytest
import torch
from guided_sampling import applied, guide_of, text_guide

pytestmark = pytest.mark.host


def evaluations(execute, model, sampler, sigmas, x=None):
    """[(x, sigma, denoised)] of a run of one of the host's k-diffusion samplers, in order."""
    import comfy.k_diffusion.sampling
    import comfy.samplers

    seen = []

    class Recording:
        def __init__(self, model):
            self.model = model

        def __getattr__(self, name):
            return getattr(self.model, name)

        def __call__(self, x, sigma, **kwargs):
            denoised = self.model(x, sigma, **kwargs)
            seen.append((x.clone(), float(sigma[0]), denoised.clone()))
            return denoised

    def run(model, start, sigmas, extra_args, callback, disable):
        function = getattr(comfy.k_diffusion.sampling, f"sample_{sampler}")
        start = start if x is None else x
        return function(Recording(model), start, sigmas, extra_args=extra_args, callback=callback, disable=True)

    (cond,) = execute("Guidance_ClassConditioning", model=model, class_label="")
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": cond})
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        guider.sample(noise, torch.zeros_like(noise), comfy.samplers.KSAMPLER(run), sigmas, seed=5, disable_pbar=True)
    return seen


def errors(execute, model, steered, sampler):
    """Relative error of the direction at each evaluation, against a look at that very x in a run of its own."""
    sigmas = torch.tensor([8.0, 4.0, 1.5, 0.5, 0.0])
    found = []
    for x, sigma, denoised in evaluations(execute, steered, sampler, sigmas):
        alone = torch.tensor([sigma, 0.0])
        plain = evaluations(execute, model, "euler", alone, x)[0][2]
        fresh = evaluations(execute, steered, "euler", alone, x)[0][2]
        found.append(float((denoised - fresh).norm() / (fresh - plain).norm().clamp(min=1e-12)))
    return found


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2s_ancestral"])
@pytest.mark.parametrize("gradient", ["auto", "at denoised"])
def test_every_1_is_fresh_at_each_evaluation(execute, encoder, models, sampler, gradient):
    """At the noisy sample by a classifier: the limit of other energies there depends on the sampler's own step."""
    model = models["scenes_unet"][0]
    clean = text_guide(execute, encoder) + guide_of(execute, encoder, "content")
    guides = guide_of(execute, encoder, "classifier") if gradient == "auto" else clean
    steered = applied(execute, model, guides, gradient=gradient, every=1)
    found = errors(execute, model, steered, sampler)
    assert len(found) > 4 and max(found) == 0


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2s_ancestral"])
def test_every_2_holds_the_direction_between(execute, encoder, models, sampler):
    model = models["scenes_unet"][0]
    steered = applied(execute, model, text_guide(execute, encoder), gradient="at denoised", every=2)
    found = errors(execute, model, steered, sampler)
    assert found[0] == 0 and max(found) > 0.1
