"""Files of our own whose metadata lies about right weights, and layouts whose shapes claim more than there is."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import torch
from safetensors.torch import save, save_file

from models import clip_noisy, diffae, mmca, prior, scorer
from models.adm import CLASSIFIER as ADM_CLASSIFIER
from models.adm import UNET
from models.adm.network import ClassifierConfig, UNetConfig
from models.architecture import Checkpoint, metadata_of
from models.clip_noisy.network import ClipNoisyConfig
from models.diffae.network import DiffAEConfig
from models.glide import GLIDE as GLIDE_UNET
from models.glide.network import GlideConfig
from models.mmca.network import MmcaConfig
from models.prior.network import PriorConfig
from models.scorer.network import HeadConfig

from .case import (
    AUTOENCODER,
    CLASSIFIER,
    ENCODER,
    HSPACE,
    MATCHER,
    MODEL,
    PRIOR,
    SCORER,
    SEMANTIC,
    Case,
    content,
    empty,
)

SHARED = {"model_channels": 8, "num_res_blocks": 1, "channel_mult": (1, 2), "attention": (2,), "num_heads": 2}
GLIDE = f"{MODEL}, GLIDE"  # a second kind of file for one reader
SMALL = {
    MODEL: (UNET, UNetConfig(**SHARED, out_channels=6, groups=4, num_classes=4)),
    CLASSIFIER: (ADM_CLASSIFIER, ClassifierConfig(**SHARED, out_channels=4, groups=4, image_size=16)),
    ENCODER: (
        clip_noisy.CLIP_NOISY,
        ClipNoisyConfig(32, (8, 8, 8), (4, 4, 8, 8), (1, 1, 1, 1), heads=2, embed_dim=8, time_width=8, time_hidden=8),
    ),
    GLIDE: (
        GLIDE_UNET,
        GlideConfig(
            **{**SHARED, "text_width": 8, "text_layers": 1, "text_heads": 2, "context": 4},
            **{"out_channels": 6, "groups": 4, "vocabulary": 3, "words": ("a", "b", "c")},
        ),
    ),
    MATCHER: (
        mmca.MMCA,
        MmcaConfig(region=9, word=8, d=8, heads=2, inner=8, channels=4, words=("a", "red"), context=4),
    ),
    PRIOR: (prior.DIFFUSERS, PriorConfig(width=8, layers=1, heads=2, clip_width=8, context=4)),
    SCORER: (scorer.MLP, HeadConfig(widths=(8, 4, 2), places=(0, 2), activation="ReLU")),
    AUTOENCODER: (
        diffae.DIFFAE,
        DiffAEConfig(**SHARED, out_channels=3, groups=4, semantic=16, encoder_mult=(1, 2), encoder_res_blocks=1),
    ),
}
NAMES = {"class_names": json.dumps(["a", "b", "c"]), "no_class": "3"}


def reader(kind):
    """Of a kind of SMALL."""
    return kind.partition(",")[0]


@cache
def own(home):
    """(weights, metadata) of a small network of ours that loads."""
    family, config = SMALL[home]
    torch.manual_seed(0)
    state = {key: value.clone() for key, value in family.build(config).state_dict().items()}
    metadata = metadata_of(Checkpoint("", family, config, family.facts(config), state))
    return state, metadata | (NAMES if home == MODEL else {})


def changed(home, state=None, **metadata):
    """One of our own files with other metadata, and tensors in another form; None takes a key away."""

    def write(path):
        weights, known = own(home)
        known = {key: value for key, value in {**known, **metadata}.items() if value is not None}
        save_file({key: (state or (lambda _, value: value))(key, value) for key, value in weights.items()}, path, known)

    return write


def beside(home, **tensors):
    """One of our own files with more tensors, or others."""
    weights, known = own(home)
    return content(written({**weights, **tensors}, known))


def config(home, **values):
    """Its configuration with other numbers; a value may be any JSON."""
    return changed(home, config=json.dumps({**json.loads(own(home)[1]["config"]), **values}))


VAST = 10**15
FACTS = {
    "schedule": ("evil", "", "linear\n", "__import__('os')"),
    "space": ("evil", "latent", "../pixels"),
    "prediction": ("evil", "v", "x0"),
    "image_size": ("-1", "0", str(10**12), "1e3", "nan", "", "thirty-two", "[32]", "null", "9" * 5000, "3.5", "true"),
    "training_steps": ("0", "-1000", str(10**12), "Infinity", "{}", "1000.0", "true", "10"),
    "rescale_timesteps": ("7", "-1", "yes", "[]", "true"),
    "no_class": ("4", "-1", str(VAST), "nan", "none", "[3]", "true"),
    "class_names": (
        "",
        "7",
        "[1, 2, 3]",
        '{"a": 1}',
        '"abc"',
        "[[], [], []]",
        '["a", "b", "c", "d", "e"]',
        '["a"]',
        '["a", "b", null]',
        "[" + "1," * 500_000 + "1]",
        json.dumps(["n" * 500_000]),
        '["", "a", "b"]',
        "[" * 900 + "]" * 900,
    ),
    "guide_scales": (
        '{"text": NaN}',
        '{"text": Infinity}',
        '{"text": "1"}',
        "[1]",
        '{"text": null}',
        "7",
        '{"a": [1]}',
        '{"text": true}',
        '{"text": 1' + "0" * 400 + "}",
    ),
    "guesses": ("[]", "7", '{"heads": 7}', "nonsense", '{"heads": null}'),
    "architecture": ("evil", "adm_classifier", "clip_noisy", "diffae", "vgg19", "lpips", "clip", "ddpm_unet"),
    "config": ("", "[]", "7", '"a"', "null", "{}", '{"surprise": 1}', "nonsense", "[" * 990, None),
}
GROUPS = ("[4, 4]", "[1, 2]", "[0, 4]", "[-1, 5]", "[2.0, 2.0]", '["4"]', "[[4]]", "7", "[4" + ", 0" * 100_000 + "]")
BLOCKS = (10**9, VAST, 30_000, 0, -1, 1.5, "1", None, [1], True)
WIDTHS = (VAST, 0, -8, 7.5, "8", None, [8], {"a": 1}, 10**9)
WORDS = (7, "ab", [1], [[]], [None], {"a": 1}, ["a"] * 300_000, ["a" * 500_000])
LISTS = ([], [VAST, 2], [0, 2], [-1, 2], ["1", 2], [[1], 2], 7, "12", None, [1, 2] * 5000, [1e308, 2], {"0": 1})


def lies(home: str) -> dict[str, object]:
    """Configurations of one kind of file that are none."""
    fields = {
        MODEL: {"num_res_blocks": BLOCKS, "model_channels": WIDTHS, "channel_mult": LISTS, "attention": LISTS[3:]},
        CLASSIFIER: {"image_size": WIDTHS, "pool": ("evil", 7, None, ["attention"]), "out_channels": WIDTHS},
        ENCODER: {"blocks": LISTS, "strides": LISTS, "stem": LISTS, "heads": WIDTHS, "words": (7, [1], "ab", [[]])},
        GLIDE: {"text_layers": BLOCKS, "text_width": WIDTHS, "context": WIDTHS, "vocabulary": WIDTHS, "words": WORDS},
        MATCHER: {
            "d": WIDTHS,
            "heads": WIDTHS,
            "text_layers": BLOCKS,
            "context": WIDTHS,
            "words": (7, [1], "ab", [[]]),
        },
        SCORER: {
            "widths": LISTS,
            "places": [v for v in LISTS if v != [0, 2]],
            "activation": ("evil", 7, None, ["ReLU"]),
        },
        PRIOR: {
            "width": WIDTHS,
            "layers": [value for value in BLOCKS if value != 1],
            "heads": WIDTHS,
            "clip_width": WIDTHS,
            "context": WIDTHS,
        },
        AUTOENCODER: {"semantic": WIDTHS, "latent": (7, [], "a", {}, {"hidden": 8}, {"hidden": VAST, "layers": VAST})},
    }
    found = {f"{field} is {str(v)[:30]}": config(home, **{field: v}) for field, vs in fields[home].items() for v in vs}
    if home == MODEL:
        some = {"num_classes": VAST, "num_heads": 0, "head_channels": 0, "groups": 0, "in_channels": VAST}
        some |= {"out_channels": 10**7, "groups ": 3, "new_attention_order": "yes", "scale_shift_norm": 7}
        found |= {f"{field} is {value}": config(home, **{field: value}) for field, value in some.items()}
    if home == ENCODER:
        some = {"sharpness": float("nan"), "stem_stride": 0, "image_size": VAST, "context": VAST, "time_width": 0}
        found |= {f"{field} is {value}": config(home, **{field: value}) for field, value in some.items()}
    return found


FORMS = {
    "whole numbers": lambda key, value: value.to(torch.int8),
    "truth values": lambda key, value: value > 0,
    "complex numbers": lambda key, value: value.to(torch.complex64),
    "bytes in one place": lambda key, value: (
        value.to(torch.uint8)
        if key.endswith(("out.2.weight", "c_proj.weight", "words.out.weight", "2.weight"))
        else value
    ),
    "NaN": lambda key, value: value * float("nan"),
    "infinity at the end": lambda key, value: (
        torch.cat([value[:-1], value[-1:] * float("inf")]) if value.ndim else value
    ),
    "numbers beyond float32": lambda key, value: value.double() * 1e300,
    "no numbers": lambda key, value: value[:0] if value.ndim else value,
    "one axis less": lambda key, value: value.flatten(),
}
UNET_KEYS = {
    "time_embed__0__weight": (32, 8),
    "input_blocks__0__0__weight": (8, 3, 3, 0),
    "input_blocks__1__0__emb_layers__1__weight": (16, 0),
    "input_blocks__1__0__out_layers__3__weight": (8, 0),
    "input_blocks__1__0__in_layers__2__weight": (8, 0),
    "middle_block__1__qkv__weight": (24, 0),
    "output_blocks__0__0__in_layers__0__weight": (8, 0),
    "out__2__weight": (6, 0),
}
CLIP_KEYS = {
    "visual__conv1__weight": (VAST, 3, 32, 0),
    "token_embedding__weight": (VAST, 0),
    "text_projection": (0, VAST),
    "ln_final__weight": (0,),
    "logit_scale": (0,),
    "positional_embedding": (VAST, 0),
    "transformer__resblocks__0__mlp__c_fc__weight": (0, VAST),
    "visual__transformer__resblocks__0__mlp__c_fc__weight": (0, VAST),
    "visual__positional_embedding": (VAST, 0),
}
GLIDE_KEYS = {
    **UNET_KEYS,
    "middle_block__1__encoder_kv__weight": (16, 0),
    "token_embedding__weight": (50257, 0),
    "positional_embedding": (128, 0),
    "padding_embedding": (128, 0),
    "transformer__resblocks__0__attn__c_qkv__weight": (0, 8),
    "transformer_proj__weight": (32, 0),
}
DDPM_KEYS = {
    "temb__dense__0__weight": (0, VAST),
    "conv_in__weight": (0, 3),
    "down__0__block__0__temb_proj__weight": (0, 1),
    "down__0__block__0__conv1__weight": (VAST, 0),
    "mid__attn_1__q__weight": (0, 1),
    "up__0__block__0__conv1__weight": (0, 1),
    "conv_out__weight": (3, 0),
}


def written(state, metadata):
    return save({key: value.clone() for key, value in state.items()}, metadata)


def many(keys, template, count):
    return {**keys, **{template.format(k): (0,) for k in range(count)}}


LAYOUTS = {
    "a U-Net of 10^15 classes": (MODEL, {**UNET_KEYS, "label_emb__weight": (VAST, 0)}),
    "a U-Net of 10^15 channels": (MODEL, {**UNET_KEYS, "time_embed__0__weight": (0, VAST)}),
    "a U-Net without channels": (MODEL, {**UNET_KEYS, "time_embed__0__weight": (0, 0)}),
    "a U-Net of 9000 blocks": (MODEL, many(UNET_KEYS, "input_blocks__{}__0__x", 9000)),
    "a U-Net of 9000 output blocks": (MODEL, many(UNET_KEYS, "output_blocks__{}__0__x", 9000)),
    "a U-Net of 200 blocks without attention": (MODEL, many(UNET_KEYS, "input_blocks__{}__0__x", 200)),
    "a U-Net of scalars": (MODEL, dict.fromkeys(UNET_KEYS, (0,))),
    "a DDPM of 10^15 channels": (MODEL, DDPM_KEYS),
    "a DDPM of 9000 levels": (MODEL, many(DDPM_KEYS, "down__{}__block__0__conv1__weight", 9000)),
    "a DDPM of 9000 blocks": (MODEL, many(DDPM_KEYS, "down__0__block__{}__conv1__weight", 9000)),
    "a GLIDE of 10^15 tokens": (MODEL, {**GLIDE_KEYS, "token_embedding__weight": (VAST, 0)}),
    "a GLIDE of texts of 10^15": (MODEL, {**GLIDE_KEYS, "positional_embedding": (VAST, 0)}),
    "a GLIDE as wide as 10^15": (MODEL, {**GLIDE_KEYS, "token_embedding__weight": (0, VAST)}),
    "a GLIDE of 9000 layers": (MODEL, many(GLIDE_KEYS, "transformer__resblocks__{}__x", 9000)),
    "a GLIDE of scalars": (MODEL, dict.fromkeys(GLIDE_KEYS, (0,))),
    "a CLIP of 10^15": (ENCODER, CLIP_KEYS),
    "a CLIP of 9000 layers": (ENCODER, many(CLIP_KEYS, "transformer__resblocks__{}__x", 9000)),
    "a classifier of 10^15 classes": (
        CLASSIFIER,
        {**UNET_KEYS, "out__2__positional_embedding": (0, VAST), "out__2__c_proj__weight": (VAST, 0)},
    ),
    "VGG of 10^15 channels": (ENCODER, {f"features__{k}__weight": (VAST, 0) for k in (0, 2, 5, 10, 19, 28, 34)}),
    "LPIPS of 10^15 channels": (
        ENCODER,
        {"scaling_layer__shift": (0,), "net__slice1__0__weight": (0,)}
        | {f"lin{k}__model__1__weight": (0, VAST) for k in range(5)},
    ),
    "a delta block of 10^6 channels": (
        HSPACE,
        {"conv1__weight": (1_000_000, 1_000_000, 0, 1), "temb_proj__weight": (0, 1_000_000)},
    ),
    "delta blocks of scalars": (HSPACE, {"conv1__weight": (0,), "temb_proj__weight": (0,)}),
    "an attribute of 10^9": (HSPACE, {"999999999999999999__conv1__weight": (0,)}),
}


def directions() -> list[Case]:
    """Saved directions that lie."""
    one, h = torch.ones(8), torch.ones(1, 8, 2, 2)
    edit = {"kind": "hspace_edit", "form": "direction", "name": "a", "model": "", "fingerprint": ""}
    line = {"kind": "semantic_direction", "name": "a", "method": "b", "fingerprint": "", "owner": ""}
    classifier = {"classifier.weight": torch.ones(40, 8), "classifier.bias": torch.ones(40)}
    table: dict[str, tuple[str, dict[str, torch.Tensor], dict[str, str]]] = {
        **{f"strength {text!r}": (HSPACE, {"delta_h": h}, {**edit, "strength": text}) for text in STRENGTHS},
        **{f"block {text!r}": (HSPACE, {"delta_h": h}, {**edit, "block": text}) for text in BLOCK},
        **{f"delta_h of {n}": (HSPACE, {"delta_h": h * n}, edit) for n in (float("nan"), float("inf"))},
        "delta_h of infinite halves": (HSPACE, {"delta_h": (h * float("inf")).half()}, edit),
        "delta_h beyond float32": (HSPACE, {"delta_h": h.double() * 1e300}, edit),
        "NaN beside delta_h": (HSPACE, {"delta_h": h, "other": h * float("nan")}, edit),
        **{f"delta_h of {v.dtype}": (HSPACE, {"delta_h": v}, edit) for v in (h.to(torch.int8), h > 0)},
        "delta_h of a row": (HSPACE, {"delta_h": one}, edit),
        "delta_h of nothing": (HSPACE, {"delta_h": h[:0]}, edit),
        "no delta_h": (HSPACE, {"other": h}, edit),
        "half a delta block": (HSPACE, {"conv1.weight": one}, {}),
        "steps of a text": (HSPACE, {"conv1.weight": one}, {**edit, "form": "delta block", "trained_steps": "many"}),
        "steps of 10^9": (HSPACE, {"conv1.weight": one}, {**edit, "form": "delta block", "trained_steps": "1e9"}),
        "half a step": (HSPACE, {"conv1.weight": one}, {**edit, "form": "delta block", "trained_steps": "1.5"}),
        "weight of 0": (SEMANTIC, {"weight": 0 * one, "bias": one[:1]}, line),
        "weight beyond float32": (SEMANTIC, {"weight": one.double() * 1e300, "bias": one[:1]}, line),
        "bias beyond float32": (SEMANTIC, {"weight": one, "bias": one[:1].double() * 1e300}, line),
        "a mean without a deviation": (SEMANTIC, {"weight": one, "mean": one}, line),
        "deviations of 0": (SEMANTIC, {"weight": one, "mean": one, "std": 0 * one}, line),
        "deviations below 0": (SEMANTIC, {"weight": one, "mean": one, "std": -one}, line),
        "weight of bytes": (SEMANTIC, {"weight": one.byte(), "bias": one[:1]}, line),
        "weight of nothing": (SEMANTIC, {"weight": one[:0], "bias": one[:1]}, line),
        "no weight": (SEMANTIC, {"bias": one[:1]}, line),
        "bias of nothing": (SEMANTIC, {"weight": one, "bias": one[:0]}, line),
        "bias of many": (SEMANTIC, {"weight": one, "bias": one}, line),
        "a mean of another length": (SEMANTIC, {"weight": one, "mean": one[:3], "std": one}, line),
        "a deviation of bytes": (SEMANTIC, {"weight": one, "mean": one, "std": one.byte()}, line),
        "classifier without a bias": (SEMANTIC, {"classifier.weight": classifier["classifier.weight"]}, {}),
        "classifier of three": (SEMANTIC, {key: value[:3] for key, value in classifier.items()}, {}),
        "classifier with a bias of one": (SEMANTIC, {**classifier, "classifier.bias": one[:1]}, {}),
        "classifier of scalars": (SEMANTIC, {"classifier.weight": one[0], "classifier.bias": one[0]}, {}),
        "classifier of bytes": (SEMANTIC, {key: value.byte() for key, value in classifier.items()}, {}),
        "classifier with a short mean": (SEMANTIC, {**classifier, "conds_mean": one[:2], "conds_std": one[:2]}, {}),
    }
    taken = {"classifier of three": (SCORER,)}  # a linear layer, and so it is one
    return [
        Case(f"direction: {name}", content(written(*part)), home, taken.get(name, ()))
        for name, (home, *part) in table.items()
    ]


def statistics() -> list[Case]:
    """Means and deviations of codes beside a network that is right."""
    found: list[Case] = []
    for home, keys, width in (
        (AUTOENCODER, ("conds_mean", "conds_std"), 16),
        (PRIOR, ("clip_mean", "clip_std"), 8),
    ):
        one = torch.ones(1, width)
        wrong = {"of bytes": one.byte(), "of 3": one[:, :3], "of nothing": one[:, :0]}
        table = {f"{key} {name}": {key: value} for key in keys for name, value in wrong.items()}
        table |= {f"{keys[1]} of 0": {keys[1]: 0 * one}, f"{keys[1]} below 0": {keys[1]: -one}}
        taken = (MODEL,) if home == AUTOENCODER else ()  # whose decoder needs none
        found += [
            Case(f"own file: {home}, {name}", beside(home, **{**dict.fromkeys(keys, one), **part}), home, taken)
            for name, part in table.items()
        ]
    alone = beside(AUTOENCODER, conds_mean=torch.ones(1, 16))
    return [*found, Case("own file: a mean without a deviation", alone, AUTOENCODER, (MODEL,))]


BLOCK = ("1.5", "-1", "1e400", "1e3", "x", "true", "", "nan", "4096", "[1]", "9" * 5000)
STRENGTHS = ("nan", "inf", "1e300", "", "one", "[1]", "0x10", "9" * 5000)


def cases() -> list[Case]:
    found = [
        Case(f"own file: {home}, {name}", write, reader(home)) for home in SMALL for name, write in lies(home).items()
    ]
    for key, values in FACTS.items():
        home = ENCODER if key == "guide_scales" else MODEL
        found += [Case(f"own file: {key} {str(v)[:30]!r}", changed(home, **{key: v}), home) for v in values]
    found += [Case(f"own file: groups {v[:20]}", changed(CLASSIFIER, class_groups=v), CLASSIFIER) for v in GROUPS]
    few = {"class_names": '["a"]', "class_groups": "[1]"}
    found += [Case(f"own file: {home} of too few names", changed(home, **few), home) for home in (CLASSIFIER, SCORER)]
    found += [
        Case(f"own file: {home} of {name}", changed(home, form), reader(home))
        for home in SMALL
        for name, form in FORMS.items()
    ]
    found += [Case(f"layout: {name}", content(empty(**keys)), home) for name, (home, keys) in LAYOUTS.items()]
    return found + statistics() + directions()


def controls() -> list[Case]:
    """The same files without a lie, which load."""
    found = [Case(f"control: {home}", changed(home), reader(home), (reader(home),)) for home in SMALL]
    return [replace(case, taken=(MODEL, AUTOENCODER)) if case.home == AUTOENCODER else case for case in found]
