"""ADM's files: openai/guided-diffusion, the FFHQ, AFHQ and MetFaces models of ILVR and P2, and the pack's own."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ..architecture import Architecture, Facts, tuples
from ..state_dict import CheckpointError, StateDict, count
from .network import Classifier, ClassifierConfig, EncoderConfig, UNet, UNetConfig
from .public import LATENT, heads_of, is_public, signature, untold

ConfigT = TypeVar("ConfigT", bound=EncoderConfig)
IMAGENET = 1000
CLASSIFIERS = {(64, 4), (128, 2), (256, 2), (512, 2)}  # public ones by (image size, blocks a level); 128 channels


def unet_blocks_a_level(state: StateDict) -> int:
    """Output blocks up to the first that enlarges, less one: each level has one more there than in the encoder."""
    for index in range(count(state, "output_blocks.{}.")):
        parts = count(state, f"output_blocks.{index}.{{}}.")
        last = f"output_blocks.{index}.{parts - 1}."
        if parts > 1 and (f"{last}in_layers.0.weight" in state or f"{last}conv.weight" in state):
            return index
    return count(state, "output_blocks.{}.") - 1


def level_blocks(state: StateDict) -> tuple[int, ...]:
    """Of files whose levels have numbers of blocks of their own: each but the last ends where its output enlarges."""
    blocks, begin, outputs = [], 0, count(state, "output_blocks.{}.")
    for index in range(outputs):
        parts = count(state, f"output_blocks.{index}.{{}}.")
        enlarges = parts > 1 and f"output_blocks.{index}.{parts - 1}.in_layers.0.weight" in state
        if enlarges or index == outputs - 1:
            blocks.append(index - begin)
            begin = index + 1
    return tuple(reversed(blocks))


def _is_down(state: StateDict, index: int) -> bool:
    """An input block that only resizes: a strided convolution, or a residual block before which attention stops."""
    return f"input_blocks.{index}.0.op.weight" in state


def longest_attention_run(state: StateDict) -> int:
    """Blocks a level of an encoder: the longest run with attention, which a down block interrupts."""
    longest = run = 0
    for index in range(count(state, "input_blocks.{}.")):
        run = run + 1 if f"input_blocks.{index}.1.qkv.weight" in state else 0
        longest = max(longest, run)
    return longest


def levels_of(state: StateDict, res_blocks: int | tuple[int, ...], width: int) -> dict[str, Any]:
    """What every encoder half shows: widths and attention of its levels."""
    blocks = count(state, "input_blocks.{}.")
    if isinstance(res_blocks, int):
        firsts = [1 + level * (res_blocks + 1) for level in range(blocks // (res_blocks + 1))]
    else:
        firsts = [1 + sum(res_blocks[:level]) + level for level in range(len(res_blocks))]
    mults = [state[f"input_blocks.{first}.0.in_layers.2.weight"].shape[0] / width for first in firsts]
    stem = state["input_blocks.0.0.weight"]
    if stem.shape[0] < width:  # a fractional first multiplier
        mults[0] = stem.shape[0] / width
    return {
        "model_channels": width,
        "in_channels": stem.shape[1],
        "num_res_blocks": res_blocks,
        "channel_mult": tuple(int(mult) if mult == int(mult) else mult for mult in mults),
        "attention": tuple(2**level for level, at in enumerate(firsts) if f"input_blocks.{at}.1.qkv.weight" in state),
    }


def own_levels(state: StateDict) -> dict[str, Any]:
    """The same where each level may have a number of blocks of its own, and how many channels are predicted."""
    blocks = level_blocks(state)
    same = blocks[0] if len(set(blocks)) == 1 else blocks
    levels = levels_of(state, same, state["time_embed.0.weight"].shape[1])
    return levels | {"out_channels": state["out.2.weight"].shape[0]}


def _encoder(state: StateDict, res_blocks: int) -> dict[str, Any]:
    """What U-Net and classifier share, from shapes."""
    first = "input_blocks.1.0."
    return {
        **levels_of(state, res_blocks, state["time_embed.0.weight"].shape[1]),
        "scale_shift_norm": state[f"{first}emb_layers.1.weight"].shape[0]
        == 2 * state[f"{first}out_layers.3.weight"].shape[0],
        "resblock_updown": not any(_is_down(state, index) for index in range(count(state, "input_blocks.{}."))),
    }


def read_unet(state: StateDict) -> UNetConfig:
    labels = state.get("label_emb.weight")
    config = UNetConfig(
        **_encoder(state, unet_blocks_a_level(state)),
        out_channels=state["out.2.weight"].shape[0],
        num_classes=None if labels is None else labels.shape[0],
    )
    if signature(config) in LATENT:
        raise CheckpointError(
            "is the U-Net of a latent diffusion model (celeba256, ffhq256 or lsun_beds256), whose three channels are "
            "no colours; models of pictures are loaded here"
        )
    known = untold(config)
    config = with_heads(config, known.num_heads)
    return replace(config, new_attention_order=known.new_attention_order)


def with_heads(config: ConfigT, num_heads: int | None = None) -> ConfigT:
    """With so many heads; None: 64 channels a head as in most public files, or one head where that can't be."""
    places = {*config.attention, config.downscale}  # the middle has attention too
    mults = [mult for level, mult in enumerate(config.channel_mult) if 2**level in places]
    if num_heads is None and all(int(mult * config.model_channels) % 64 == 0 for mult in mults):
        return replace(config, head_channels=64)
    return replace(config, num_heads=num_heads or 1)


def unet_facts(config: UNetConfig) -> Facts:
    colours = 3
    return Facts(
        image_size=untold(config).image_size or 8 * config.downscale,
        schedule=untold(config).schedule,
        training_steps=untold(config).training_steps,
        rescale_timesteps=untold(config).rescale_timesteps,
        class_names=imagenet_classes() if config.num_classes == IMAGENET else numbered(config.num_classes),
        learned_variance=config.out_channels == 2 * colours,
        low_res_channels=config.in_channels - colours,
    )


def unet_guesses(config: UNetConfig) -> dict[str, str]:
    return {} if is_public(config) else {**attention_guesses(config), **training_guesses(unet_facts(config))}


def classifier_guesses(config: ClassifierConfig) -> dict[str, str]:
    public = config.out_channels == IMAGENET and config.model_channels == 128
    if public and (config.image_size, config.num_res_blocks) in CLASSIFIERS:
        return {}
    guessed = {**attention_guesses(config), **training_guesses(classifier_facts(config))}
    return {key: value for key, value in guessed.items() if key != "image_size"}  # its positions tell that


def attention_guesses(config: EncoderConfig) -> dict[str, str]:
    return {"heads": heads_of(config), "attention_order": "new" if config.new_attention_order else "legacy"}


def training_guesses(facts: Facts) -> dict[str, str]:
    return {
        "schedule": facts.schedule,
        "training_steps": str(facts.training_steps),
        "image_size": str(facts.image_size),
    }


def read_classifier(state: StateDict) -> ClassifierConfig:
    shared = _encoder(state, longest_attention_run(state))
    positions = state["out.2.positional_embedding"].shape[1] - 1
    config = ClassifierConfig(
        **shared,
        out_channels=state["out.2.c_proj.weight"].shape[0],
        image_size=round(positions**0.5) * 2 ** (len(shared["channel_mult"]) - 1),
    )
    return with_heads(config)


def classifier_facts(config: ClassifierConfig) -> Facts:
    """The 64-pixel classifier was trained for the cosine schedule of its diffusion model, the others for the linear."""
    classes = config.out_channels
    return Facts(
        image_size=config.image_size,
        schedule="cosine" if config.image_size == 64 and config.num_res_blocks == 4 else "linear",
        class_names=imagenet_classes() if classes == IMAGENET else numbered(classes),
        class_groups=(classes,),
    )


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1000 class names of ImageNet in the order of the published networks."""
    return tuple((Path(__file__).parent / "imagenet_classes.txt").read_text("utf-8").splitlines())


def numbered(classes: int | None) -> tuple[str, ...]:
    """Names for classes that nobody named."""
    return tuple(f"class {index}" for index in range(classes or 0))


UNET: Architecture[UNetConfig] = Architecture(
    id="adm_unet",
    title="an ADM U-Net",
    kind="model",
    keys=(
        "time_embed.0.weight",
        "input_blocks.0.0.weight",
        "input_blocks.1.0.emb_layers.1.weight",
        "middle_block.1.qkv.weight",
        "output_blocks.0.0.in_layers.0.weight",
        "out.2.weight",
    ),
    absent=("middle_block.1.encoder_kv.weight", "transformer_proj.weight", "encoder.out.3.weight")
    + ("cf_param", "encoder_pooling.0.weight"),
    read_config=read_unet,
    parse_config=lambda config: UNetConfig(**tuples(config)),
    build=UNet,
    facts=unet_facts,
    guesses=unet_guesses,
)
CLASSIFIER: Architecture[ClassifierConfig] = Architecture(
    id="adm_classifier",
    title="an ADM classifier",
    kind="classifier",
    keys=(
        "time_embed.0.weight",
        "input_blocks.0.0.weight",
        "input_blocks.1.0.emb_layers.1.weight",
        "middle_block.1.qkv.weight",
        "out.2.positional_embedding",
        "out.2.c_proj.weight",
    ),
    absent=("output_blocks.0.0.in_layers.0.weight",),
    read_config=read_classifier,
    parse_config=lambda config: ClassifierConfig(**tuples(config)),
    build=Classifier,
    facts=classifier_facts,
    guesses=classifier_guesses,
)
