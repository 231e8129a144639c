"""The key layouts of public checkpoints: found, built and matched; everything else is refused in words."""

import gzip
import json

import pytest
import torch
from conftest import ROOT

from pack.models import ldm
from pack.models.architecture import UnknownArchitectureError, parse
from pack.models.foreign import foreign
from pack.models.prior import usual_clamp
from pack.models.registry import ARCHITECTURES, LATENT
from pack.models.state_dict import CheckpointError, bare

FILES = ("checkpoint_layouts.json.gz", "checkpoint_layouts2.json.gz")
LAYOUTS = {
    name: layout
    for file in FILES
    for name, layout in json.loads(gzip.decompress((ROOT / "tests" / "golden" / file).read_bytes())).items()
}
FAMILIES = ("adm/", "ilvr/", "ddpm/", "asyrp/afhqdog_p2", "sdg/", "diffae/", "glide/")
FAMILIES += ("karlo/decoder", "karlo/improved-sr", "deepfloyd/", "karlo/prior", "karlo-diffusers/prior", "kandinsky")
PRIORS = ("karlo/prior", "karlo-diffusers/prior", "kandinsky")
ENLARGING = ("karlo/improved-sr", "deepfloyd/IF-II")
OURS = [name for name in LAYOUTS if name.startswith(FAMILIES)]
SCHEDULES = {"squaredcos_cap_v2": "cosine"}  # names in other code
OTHERS = [name for name in LAYOUTS if name not in OURS]


def state_of(name):
    """Without what stands before all keys of Karlo's decoder."""
    state = {key: torch.empty(shape, device="meta") for key, shape in LAYOUTS[name]["keys"].items()}
    return bare(state) if name.startswith("karlo/") else state


def read(state, name="file.pt"):
    return parse(name, state, {}, ARCHITECTURES)


def test_there_are_thirty_nine_and_ten():
    assert (len(OURS), len(OTHERS)) == (39, 10)


@pytest.mark.parametrize("name", OURS)
def test_a_public_file_is_recognised_with_what_its_shapes_can_not_tell(name):
    """`parse` compares every key and shape with the network built on the meta device."""
    checkpoint, stated = read(state_of(name)), LAYOUTS[name]["facts"]
    config, facts = checkpoint.config, checkpoint.facts
    assert facts.image_size == stated.get("image_size", facts.image_size)
    if "noise_schedule" in stated:
        assert facts.schedule == SCHEDULES.get(stated["noise_schedule"], stated["noise_schedule"])
    if name.startswith(PRIORS):
        assert (checkpoint.architecture.kind, usual_clamp(checkpoint)) == ("prior", stated["x0_clamp"])
        assert (config.heads, config.width // config.heads, config.context) == (stated["heads"], 64, 77)
    elif "head_dim" in stated:
        assert (config.heads, config.width // config.heads) == (stated["heads"], stated["head_dim"])
    if "num_head_channels" in stated:
        assert config.head_channels == stated["num_head_channels"]
    elif "num_heads" in stated:
        assert (config.num_heads, config.head_channels) == (stated["num_heads"], None)
    assert facts.noise_aware == name.startswith(("sdg/", "glide/clip"))
    if not name.startswith(("ddpm/", "sdg/", "glide/clip", *PRIORS)):
        assert config.new_attention_order == stated.get("use_new_attention_order", False)
    if "class_cond" in stated:
        assert len(facts.class_names) == (1000 if stated["class_cond"] else 0)
    if "learn_sigma" in stated:
        assert facts.learned_variance == stated["learn_sigma"]
    if "classifier_depth" in stated:
        assert (config.num_res_blocks, config.pool) == (stated["classifier_depth"], stated["pool"])
    enlarges = stated.get("super_resolution") or stated.get("super_res") or name.startswith(ENLARGING)
    assert facts.low_res_channels == (3 if enlarges else 0)
    assert facts.text_encoder == (
        "CLIP" if name.startswith(("karlo/dec", *PRIORS)) else "T5" if "deepfloyd/" in name else ""
    )
    assert facts.kept_channels == (4 if stated.get("inpaint") else 0)
    assert facts.vocabulary == ("GPT-2" if name.startswith(("glide/base", "glide/up")) else "")
    untold = "if_stage" if name.startswith("deepfloyd/IF-II") else None  # its description is not public
    assert (untold in checkpoint.guesses) if untold else checkpoint.guesses == {}


@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("diffae/")])
@pytest.mark.parametrize("prefix", ["", "ema_model."])
def test_a_diffusion_autoencoder_is_recognised_with_what_stands_beside_its_network(name, prefix):
    """Lightning files hold the network twice, a grid's noise, and statistics of z_sem."""
    state = {f"{prefix}{key}": value for key, value in state_of(name).items()}
    if prefix:
        state |= {key.replace("ema_model.", "model."): torch.zeros(1, device="meta") for key in state}
    state |= {"x_T": torch.empty(32, 3, 8, 8, device="meta"), "conds_mean": torch.empty(1, 512, device="meta")}
    checkpoint = read(state)
    assert checkpoint.architecture.id == "diffae"
    assert set(checkpoint.beside) == {"x_T", "conds_mean"}
    assert checkpoint.facts.semantic == 512
    assert (checkpoint.config.latent is not None) == ("latent" in name)
    assert sorted(checkpoint.state) == sorted(LAYOUTS[name]["keys"])


@pytest.mark.parametrize("name", [name for name in OURS if name.startswith(("karlo/decoder", "karlo/prior"))])
def test_a_prefix_before_all_keys_is_no_part_of_them(name):
    assert list(LAYOUTS[name]["keys"])[0].startswith("model.")
    checkpoint = read({f"model.{key}": value for key, value in state_of(name).items()})
    assert checkpoint.architecture.id in ("karlo_decoder", "karlo_prior")


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name.startswith("ldm/")])
@pytest.mark.parametrize("part", ["whole", "without its autoencoder"])
def test_a_latent_diffusion_file_is_its_network_with_what_stands_beside(name, part):
    keys = LAYOUTS[name]["keys"]
    state = {key: torch.ones(shape, device="meta" if shape else "cpu") for key, shape in keys.items()}
    if part != "whole":
        assert not ldm.is_latent({key: value for key, value in state.items() if not key.startswith("first_stage")})
        return
    assert ldm.is_latent(state)
    network, beside = ldm.parted(state, name)
    checkpoint, stated = parse(name, network, {}, LATENT), LAYOUTS[name]["facts"]
    config = checkpoint.config
    heads = (config.num_heads, config.head_channels)
    wanted = {"cin": (1, None), "celeba": (1, 32), "lsun": (8, None)}
    assert heads == next(found for key, found in wanted.items() if key in name)
    assert len(checkpoint.facts.class_names) == stated.get("classes", 1) - 1
    assert checkpoint.facts.no_class == stated.get("no_class")
    assert checkpoint.facts.schedule == ("latent churches" if "lsun" in name else "latent")
    assert config.in_channels == stated.get("latent", [4 if "lsun" in name else 3])[0]
    assert any(key.startswith("first_stage_model.") for key in beside) and checkpoint.guesses == {}


@pytest.mark.parametrize("name", OURS)
def test_a_public_file_is_taken_for_no_foreign_one(name):
    assert foreign(LAYOUTS[name]["keys"]) == ""
    assert foreign(f"ema_model.{key}" for key in LAYOUTS[name]["keys"]) == ""


@pytest.mark.parametrize("name", OTHERS)
def test_another_public_file_is_mistaken_for_none_of_them(name):
    with pytest.raises(CheckpointError):
        read(state_of(name))


@pytest.mark.host
@pytest.mark.parametrize("family", ["SD15", "SDXL"])
def test_the_hosts_own_unets_are_mistaken_for_none_of_them(comfy, family):
    import comfy.ldm.modules.diffusionmodules.openaimodel as host_unet
    import comfy.ops
    import comfy.supported_models

    shared = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "num_res_blocks": [2, 2, 2, 2],
        "num_heads": 8,
        "use_spatial_transformer": True,
        "legacy": False,
        "dtype": torch.float32,
        "device": "meta",
        "operations": comfy.ops.disable_weight_init,
    }
    known = dict(getattr(comfy.supported_models, family).unet_config)
    shape = {
        "SD15": {"channel_mult": (1, 2, 4, 4), "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0]},
        "SDXL": {"channel_mult": (1, 2, 4), "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 2, 2, 10, 10]},
    }[family]
    output = {"SD15": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "SDXL": [0, 0, 0, 2, 2, 2, 10, 10, 10]}[family]
    classes = {"num_classes": "sequential", "adm_in_channels": 2816} if family == "SDXL" else {}
    middle = {"SD15": 1, "SDXL": 10}[family]
    arguments = {**shared, **known, **shape, **classes, "transformer_depth_middle": middle}
    network = host_unet.UNetModel(**{**arguments, "transformer_depth_output": output})
    with pytest.raises(UnknownArchitectureError, match="nearest is"):
        read(dict(network.state_dict()))


def detection_keys(name):
    return next(family.keys for family in ARCHITECTURES if not family.lacks(state_of(name)))


@pytest.mark.parametrize("name", OURS)
def test_a_lost_key_is_named(name):
    state = state_of(name)
    lost = list(state)[len(state) // 2]
    del state[lost]
    with pytest.raises(CheckpointError, match=lost.replace(".", r"\.")):
        read(state)


@pytest.mark.parametrize("name", OURS)
def test_a_lost_detection_key_is_named_with_the_nearest_family(name):
    for lost in detection_keys(name):
        state = state_of(name)
        del state[lost]
        with pytest.raises(UnknownArchitectureError, match=lost.replace(".", r"\.")):
            read(state)


@pytest.mark.parametrize("name", OURS)
def test_a_renamed_key_is_named_by_both_names(name):
    state = state_of(name)
    old = next(key for key in reversed(list(state)) if key not in detection_keys(name) and key.endswith(("bias", ".b")))
    state[old + "_renamed"] = state.pop(old)
    with pytest.raises(CheckpointError) as error:
        read(state)
    assert old in str(error.value) and old + "_renamed" in str(error.value)


@pytest.mark.parametrize("name", OURS)
def test_a_reshaped_weight_is_named_with_both_shapes(name):
    state = state_of(name)
    odd = next(key for key in reversed(list(state)) if key not in detection_keys(name) and key.endswith(("bias", ".b")))
    right = list(state[odd].shape)
    state[odd] = torch.empty(right[0] + 1, device="meta")
    with pytest.raises(CheckpointError) as error:
        read(state)
    assert odd in str(error.value) and str(right) in str(error.value) and str([right[0] + 1]) in str(error.value)
