"""Features of the published text and cascade models, at their smallest: GLIDE, Karlo, IF, latent diffusion."""

import torch
from networks import SIDE, pictures, sampled


def inpainting(networks):
    """GLIDE's inpainting base."""
    import glide_golden

    name = glide_golden.stored("inpaint.", "feature_glide.safetensors")
    return networks.execute("Guidance_LoadModel", model_name=name)[0]


def hole(networks, model, text):
    """A text, and a picture of which a half is kept."""
    mask = torch.zeros(1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    (told,) = networks.execute("Guidance_TextConditioning", model=model, text=text)
    given = {"conditioning": told, "image": pictures(), "mask": mask}
    return networks.execute("Guidance_InpaintConditioning", **given)[0]


def glide(networks):
    """A half of a picture with CFG: a text and its null."""
    model = inpainting(networks)
    return sampled(networks, model, *(hole(networks, model, text) for text in ("a corgi", "")), cfg=3.0)


def filled_hole(networks, dial):
    """The same at a dial between what it keeps and nothing."""
    (model,) = networks.execute("Guidance_ReferenceDial", model=inpainting(networks), dial=dial)
    told = hole(networks, model, "a corgi")
    return sampled(networks, model, told, told)


def towers(networks, width):
    """A small CLIP of that width."""
    import clip_towers

    if f"clip {width}" not in networks.loaded:
        networks.loaded[f"clip {width}"] = clip_towers.clip_of(width)
    return networks.loaded[f"clip {width}"]


def embedded(networks):
    """What Karlo's prior makes of a text, with CFG."""
    import prior_golden

    name = prior_golden.stored("karlo", "feature_prior.safetensors")
    (prior,) = networks.execute("Guidance_LoadPrior", prior_name=name, statistics_name="stats.th")
    given = {"prior": prior, "clip": towers(networks, 24), "text": "a red dog", "steps": 4}
    return networks.execute("Guidance_UnclipPrior", **given)[0]


def karlo(networks):
    """Karlo's decoder with CFG: a text, an embedding of the prior, and both nulls."""
    import karlo_golden

    name = karlo_golden.stored("karlo_decoder", "feature_karlo.safetensors")
    model, _ = networks.execute("Guidance_LoadModel", model_name=name)
    given = {"model": model, "clip": towers(networks, 24)}
    positive, negative = (
        networks.execute("Guidance_TextConditioning", **given, text=text)[0] for text in ("a red dog", "")
    )
    told = {"model": model, "conditioning": positive, "clip_vision_output": embedded(networks)}
    (positive,) = networks.execute("Guidance_ImageEmbedConditioning", **told)
    return sampled(networks, model, positive, negative, cfg=3.0)


def enlarged(networks):
    """Karlo's super-resolution of a picture."""
    import karlo_golden

    name = karlo_golden.stored("karlo_upsampler", "feature_karlo_sr.safetensors")
    model, _ = networks.execute("Guidance_LoadModel", model_name=name)
    (nothing,) = networks.execute("Guidance_ClassConditioning", model=model, class_label="")
    (told,) = networks.execute("Guidance_UpscaleConditioning", conditioning=nothing, image=pictures())
    return sampled(networks, model, told, told)


def imagen(networks, stage):
    """A stage of IF with CFG: a text by T5, and in the second a small picture with noise."""
    import imagen_golden

    name = imagen_golden.stored(stage, f"feature_if_{stage}.safetensors")
    model, _ = networks.execute("Guidance_LoadModel", model_name=name)
    sides = []
    for text in ("a red dog", ""):
        (told,) = networks.execute("Guidance_TextConditioning", model=model, text=text, clip=networks.t5)
        if stage == "two":
            (told,) = networks.execute("Guidance_UpscaleConditioning", conditioning=told, image=pictures())
        sides.append(told)
    return sampled(networks, model, *sides, cfg=3.0)


def latent_diffusion(networks, network, labels):
    """A checkpoint of latent diffusion with CFG between two labels."""
    import ldm_golden

    name = ldm_golden.stored(f"feature_{network}.ckpt", getattr(ldm_golden, network))
    model, _ = networks.execute("Guidance_LoadModel", model_name=name)
    sides = [networks.execute("Guidance_ClassConditioning", model=model, class_label=label)[0] for label in labels]
    return sampled(networks, model, *sides, cfg=3.0)
