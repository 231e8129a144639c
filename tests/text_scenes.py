"""The scene of the table of compatibility on each family of models that reads texts, or a class as a token."""

from functools import cached_property

import imagen_golden
import ldm_golden
from compatibility.scene import Scene, with_lora
from networks import pictures

TEXTS = {"p": "a striped star", "m": "a red shape", "n": "", "b": "a blue shape"}


class TextScene(Scene):
    """Texts for labels, read by the small model that ships."""

    def stored(self):
        """Name of the model's file."""
        return "scenes_text.safetensors"

    def told(self, model, text):
        return self.execute("Guidance_TextConditioning", model=model, text=text)[0]

    def label(self, name):
        return self.told(self.models["main"], f"a {name}")

    @cached_property
    def models(self):
        given = {"model_name": self.stored(), "clip_denoised": False}
        main, second = (self.execute("Guidance_LoadModel", **given)[0] for _ in range(2))
        return {"main": main, "second": with_lora(self, second, -1.0)}

    @cached_property
    def labels(self):
        return {key: self.told(self.models["main"], text) for key, text in TEXTS.items()}


class KarloScene(TextScene):
    """Texts by the small CLIP; all of them but the null with the embedding of one picture."""

    def stored(self):
        return "scenes_unclip.safetensors"

    def told(self, model, text):
        encoder = self.networks.encoder
        (found,) = self.execute("Guidance_TextConditioning", model=model, text=text, clip=encoder)
        (seen,) = self.execute("Guidance_ImageEmbeds", encoder=encoder, images=pictures())
        given = {"model": model, "conditioning": found, "clip_vision_output": seen}
        return self.execute("Guidance_ImageEmbedConditioning", **given)[0] if text else found


class ImagenScene(TextScene):
    """Texts by T5."""

    def stored(self):
        return imagen_golden.stored("one", "scene_if.safetensors")

    def told(self, model, text):
        return self.execute("Guidance_TextConditioning", model=model, text=text, clip=self.networks.t5)[0]


class LatentScene(TextScene):
    """Classes of a latent diffusion model, as tokens."""

    def stored(self):
        return ldm_golden.stored("scene_ldm.ckpt")

    def told(self, model, text):
        known = [None, *TEXTS.values()]
        label = f"class {known.index(text) if text in known else len(known)}" if text else ""
        return self.execute("Guidance_ClassConditioning", model=model, class_label=label)[0]


SCENES = {"GLIDE": TextScene, "Karlo": KarloScene, "IF": ImagenScene, "latent diffusion": LatentScene}
