"""Guided sampling in process, on the pack's own small models and encoder: what the tests of guides share."""

import torch

PUBLISHED = {
    "ddpm, learned": ("Guidance_DDPMSampler", {"variance": "auto"}),
    "ddpm, fixed large": ("Guidance_DDPMSampler", {"variance": "fixed large"}),
    "ddpm, fixed small": ("Guidance_DDPMSampler", {"variance": "fixed small"}),
    "ddim, eta 1": ("Guidance_DDIMSampler", {"eta": 1.0}),
    "ddim, eta 0": ("Guidance_DDIMSampler", {"eta": 0.0}),
}
KINDS = ["scenes_unet", "scenes_latent", "scenes_flow"]


def picture(seed=3, size=(40, 56)):
    return torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(seed))


def sample(execute, model, steps=4, batch=2, seed=5, sampler="euler", latent=None, noise=None, mask=None, sigmas=None):
    """The host's own sampling, in inference mode as in a node."""
    import comfy.sample

    (empty,) = execute("Guidance_EmptyPixelLatent", width=32, height=32, batch_size=batch)
    (cond,) = execute("Guidance_ClassConditioning", model=model, class_label="")
    with torch.inference_mode():
        if latent is None:
            latent = comfy.sample.fix_empty_latent_channels(model, empty["samples"], 1)
        if noise is None:
            noise = comfy.sample.prepare_noise(latent, seed)
        options = {"seed": seed, "noise_mask": mask, "sigmas": sigmas, "disable_pbar": True}
        return comfy.sample.sample(model, noise, steps, 1.0, sampler, "normal", cond, cond, latent, **options)


def text_guide(execute, encoder, text="a red star", **options):
    return execute(
        "Guidance_TextGuide", encoder=encoder, text=text, **{"start_percent": 0.0, "end_percent": 1.0, **options}
    )[0]


def guide_of(execute, encoder, kind):
    image = {"encoder": encoder, "image": picture(), "start_percent": 0.0, "end_percent": 1.0}
    if kind == "text":
        return text_guide(execute, encoder)
    if kind == "match":
        (matcher,) = execute("Guidance_LoadMatcher", matcher_name="scenes_matcher.safetensors")
        given = {"encoder": encoder, "matcher": matcher, "text": "a red star left of a blue circle"}
        return execute("Guidance_MatchGuide", **given, start_percent=0.0, end_percent=1.0)[0]
    if kind == "score":
        (scorer,) = execute("Guidance_LoadScorer", scorer_name="scenes_scorer.safetensors")
        given = {"encoder": encoder, "scorer": scorer, "output": "star"}
        return execute("Guidance_ScoreGuide", **given, start_percent=0.0, end_percent=1.0)[0]
    if kind == "palette":
        return execute("Guidance_PaletteGuide", image=picture(), start_percent=0.0, end_percent=1.0)[0]
    if kind == "classifier":
        (classifier,) = execute("Guidance_LoadClassifier", classifier_name="scenes_classifier.safetensors")
        return execute("Guidance_ClassifierGuide", classifier=classifier, class_label="star", weight=20.0)[0]
    name, _, method = kind.partition(" ")
    return execute(f"Guidance_{name.title()}Guide", **image, **({"method": method} if method else {}))[0]


def applied(execute, model, guides, vae=None, **options):
    return execute("Guidance_ApplyGuides", model=model, guides=guides, vae=vae, **options)[0]


def published(execute, model, name, sigmas, latent=None, seed=5, batch=2):
    """A run of one of the pack's samplers from unit noise, or on from a latent, over the sigmas given."""
    import comfy.samplers

    node, options = PUBLISHED[name]
    (sampler,) = execute(node, **options, clip_denoised=False)
    (cond,) = execute("Guidance_ClassConditioning", model=model, class_label="star")
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": cond})
    noise = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    noise, latent = (noise, torch.zeros_like(noise)) if latent is None else (torch.zeros_like(latent), latent)
    with torch.inference_mode():
        return guider.sample(noise, latent, sampler, sigmas, seed=seed, disable_pbar=True)
