"""The pack's own CONDITIONING: classes, semantic codes, texts, pictures to enlarge and pictures with holes.

What is meant stands in the two tensors that the host's conditioning nodes change, the embedding and the pooled output:
so Average mixes it, Zero Out empties it, and what makes no sense for a class is seen and refused. The dict beside them
holds only marks, by which a model knows what the tensors are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...guidance.classifier_energy import NO_CLASS
from ...models.architecture import Facts

# marks of a CONDITIONING
CLASS_LABELS = "guidance_class_labels"  # the embedding is a class, [n 1 2]: see `class_conditioning`
Z_SEM = "guidance_z_sem"  # the embedding is what a diffusion autoencoder decodes, [n 1 D]
LOW_RES = "guidance_low_res"  # the pooled output is what an upsampler enlarges: `pixel.small`
STATES = "guidance_states"  # the embedding is what the network that stands here read of a text: `pixel.states`
IMAGE_EMBEDS = "guidance_image_embeds"  # CLIP's embeddings of pictures and their strength: `pixel.states`
TEXT = "guidance_text"  # the embedding is a text in the tokens of the vocabulary that stands here: `pixel.tokens`
KEPT = "guidance_kept"  # what inpainting keeps stands here, [n 4 H W]: `pixel.kept`


def class_conditioning(labels: list[int]) -> list[Any]:
    """CONDITIONING of classes, label i for picture i.

    A label stands as (k, k^2), k = label + 1: so zero is no class, and a mixture of two classes is none of them.
    """
    return [[class_embedding(torch.tensor(labels)), {CLASS_LABELS: True}]]


def class_embedding(labels: Tensor) -> Tensor:
    """Labels [n] as an embedding [n 1 2]."""
    return numbered(labels[:, None])


def numbered(indices: Tensor) -> Tensor:
    """Indices [n N], -1 for none, as an embedding [n N 2]."""
    number = (indices - NO_CLASS).float()
    return torch.stack([number, number**2], -1)


def labels_of(embedding: Tensor) -> Tensor:
    """The labels nearest to an embedding, long [n]."""
    return indices_of(embedding)[:, 0]


def indices_of(embedding: Tensor) -> Tensor:
    """Those nearest to an embedding, long [n N]."""
    return embedding[..., 0].round().long() + NO_CLASS


def semantic_conditioning(z_sem: Tensor) -> list[Any]:
    """CONDITIONING of codes [n D], code i for picture i."""
    return [[z_sem[:, None], {Z_SEM: True}]]


def refuse_foreign(given: Mapping[str, Any], facts: Facts) -> None:
    """Raises ValueError for what a model of these facts would leave unread. `given`: what the host encodes."""
    if given.get(Z_SEM) and not facts.semantic:
        raise ValueError("Apply Semantic is for the MODEL of Load Diffusion Autoencoder, and this model is none")
    if given.get(LOW_RES) and not facts.low_res_channels:
        raise ValueError("Upscale Conditioning is for upsamplers, and this model enlarges nothing; leave it out")
    if given.get(TEXT) and not facts.vocabulary and given["cross_attn"].any():
        raise ValueError("Text Conditioning is for a MODEL of GLIDE's kind, and this model reads no texts that way")
    if given.get(STATES) and not facts.text_encoder and given["cross_attn"].any():
        raise ValueError(
            "Text Conditioning of another model came, with what its text encoder read; this model takes none of it"
        )
    if given.get(IMAGE_EMBEDS) and not facts.image_embeds:
        raise ValueError(
            "Image Embed Conditioning is for unCLIP decoders, as Karlo's, and this model is none; leave it out"
        )
    if given.get(KEPT) is not None and not facts.kept_channels:
        raise ValueError(
            "Inpaint Conditioning is for inpainting models, and this model is none; leave it out, and use Set Latent "
            "Noise Mask"
        )
    takes_codes = bool(facts.semantic)  # then the missing code is what to say
    if given.get(CLASS_LABELS) and not facts.class_names and not takes_codes and given["cross_attn"].any():
        raise ValueError("this model has no classes, and the class of another model came; leave class_label empty")


def labels_in(given: Mapping[str, Any], facts: Facts) -> Tensor:
    """Class labels, one for each picture, long [B]. Raises ValueError where there is no such class."""
    embedding = given.get("cross_attn")
    if not given.get(CLASS_LABELS):
        if embedding is not None and embedding.any():
            raise ValueError("this model takes classes, and a CONDITIONING without one came; use Class Conditioning")
        embedding = torch.zeros(1, 1, 2)
    if embedding is None or embedding.shape[1:] != (1, 2):
        raise ValueError(
            "two conditionings were joined to one, and a picture has one class; use Conditioning (Combine)"
        )
    labels = labels_of(embedding)
    if not torch.equal(embedding, class_embedding(labels)):
        raise ValueError(
            "a class was mixed with another or multiplied, and there is nothing between classes; use Conditioning "
            "(Combine), or CFG Combiner, whose conditions have a scale each"
        )
    if labels.max() >= len(facts.class_names):
        raise ValueError(
            f"class {int(labels.max())} came, and this model has {len(facts.class_names)} classes; connect this model "
            "to Class Conditioning"
        )
    if (labels == NO_CLASS).any() and facts.no_class is None:
        raise ValueError(
            "this class-conditional model was trained without an empty class, so every image needs a class label; "
            "connect Class Conditioning to the sampler's positive (and, with cfg above 1, negative) input"
        )
    return for_batch(labels, len(given["noise"]), "class labels")


def codes_in(given: Mapping[str, Any], facts: Facts) -> Tensor:
    """Semantic codes, one for each picture, [B D]. Raises ValueError where none came that fits."""
    embedding = given.get("cross_attn") if given.get(Z_SEM) else None
    if embedding is None or embedding.shape[2] != facts.semantic:
        came = "none was given" if embedding is None else f"one of {embedding.shape[2]} was given"
        raise ValueError(
            f"this model decodes a semantic code of {facts.semantic} numbers, and {came}; connect Apply "
            "Semantic of the same autoencoder to the sampler's positive (and, with cfg above 1, negative) input"
        )
    if embedding.shape[1] != 1:
        raise ValueError(
            f"{embedding.shape[1]} semantic codes were joined to one, and a picture has one; use Conditioning "
            "(Average), which mixes them, or Conditioning (Combine)"
        )
    return for_batch(embedding[:, 0], len(given["noise"]), "semantic codes")


def for_batch(rows: Tensor, batch: int, what: str) -> Tensor:
    """Row i for picture i; fewer rows start again from the first. Raises ValueError for more rows than pictures."""
    if len(rows) > batch:
        raise ValueError(f"{len(rows)} {what} came for a batch of {batch}; give one, or {batch}")
    return comfy.utils.repeat_to_batch_size(rows, batch)
