"""What shapes can't tell of a file: known for the public ones, said where it is guessed, and chosen by who knows it."""

from dataclasses import replace

import golden_files
import pytest
import torch
from own_networks import OWN, own_classifier, own_unet, saved

from pack.models import ddpm, registry
from pack.models.adm import public
from pack.models.adm.network import UNet, UNetConfig
from pack.models.architecture import parse
from pack.models.diffae import DIFFAE
from pack.models.diffae.network import DiffAEConfig
from pack.models.schedule import NoiseSchedule
from pack.models.state_dict import CheckpointError
from pack.models.told import Told, remark

X, T = golden_files.draw((2, 3, 16, 16), 1), torch.tensor([10, 700])
IMPROVED = [signature for signature in public.PUBLIC if not signature[-1]]


def read(network, name="own.pt"):
    return parse(name, dict(network.state_dict()), {}, registry.ARCHITECTURES)


def on_meta(build, config):
    with torch.device("meta"):
        return build(config)


def of_signature(signature, **more):
    keys = ("in_channels", "model_channels", "num_res_blocks", "channel_mult", "attention", "resblock_updown")
    return UNetConfig(**dict(zip(keys, signature, strict=True)), out_channels=6, **more)


def loaded(network, told, folder):
    """The network as its file is loaded."""
    checkpoint = told.of(registry.load_checkpoint(saved(network, folder / "own.pt"), "model"))
    found = checkpoint.build()
    found.load_state_dict(checkpoint.state)
    return found.eval()


# --- known


@pytest.mark.parametrize("signature", IMPROVED)
def test_improved_diffusions_public_files_are_known(signature):
    """Heads, schedule, steps and size of its README's flags and of its script's defaults."""
    known = public.PUBLIC[signature]
    classes = 1000 if signature[1] == 192 else None
    checkpoint = read(on_meta(UNet, of_signature(signature, num_classes=classes)))
    assert checkpoint.guesses == {}
    assert (checkpoint.config.num_heads, checkpoint.config.head_channels) == (known.num_heads, None)
    assert checkpoint.facts.image_size == {(1, 2, 2, 2): 32, (1, 2, 3, 4): 64}.get(signature[3], 256)
    lsun = signature[2:] == (2, (1, 1, 2, 2, 4, 4), (16,), False)
    assert checkpoint.facts.training_steps == (1000 if lsun else 4000)
    assert checkpoint.facts.rescale_timesteps == (signature[1:3] == (128, 3))


# --- said


@pytest.mark.parametrize(
    "change, heads",
    [
        ({}, "64 channels a head"),
        ({"num_heads": 1}, "64 channels a head"),
        ({"channel_mult": (1, 4)}, "64 channels a head"),
        ({"model_channels": 96, "channel_mult": (1, 1)}, "1 head"),  # 64 channels a head can't be
        ({"model_channels": 32, "channel_mult": (1, 1)}, "1 head"),
    ],
)
def test_everything_that_is_guessed_of_an_own_model_is_said(change, heads):
    checkpoint = read(own_unet(**change))
    assert checkpoint.guesses == {
        "heads": heads,
        "attention_order": "legacy",
        "schedule": "linear",
        "training_steps": "1000",
        "image_size": "16",
    }
    said = remark(checkpoint.name, checkpoint.guesses)
    assert all(word in said for word in ("own.pt", heads, "legacy", "linear", "1000", "16"))


def test_a_public_network_trained_on_other_classes_is_no_public_file():
    signature = next(iter(public.PUBLIC))
    guesses = [read(on_meta(UNet, of_signature(signature, num_classes=n))).guesses for n in (1000, None, 10)]
    assert guesses[:2] == [{}, {}] and guesses[2]["attention_order"] == "new"


def test_guesses_of_the_other_families_are_said():
    classifier = read(own_classifier())
    assert set(classifier.guesses) == {"heads", "attention_order", "schedule", "training_steps"}
    own = ddpm.DDPMConfig(channels=64, channel_mult=(1, 2), num_res_blocks=1, attention=(1,))
    assert set(read(on_meta(ddpm.DDPM, own)).guesses) == {"schedule", "training_steps", "image_size"}
    own = DiffAEConfig(
        model_channels=32,
        out_channels=3,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention=(2,),
        encoder_mult=(1, 2, 2),
        semantic=64,
    )
    assert read(on_meta(DIFFAE.build, own)).guesses["heads"] == "1 head"


# --- chosen


@pytest.mark.parametrize(
    "change, told",
    [
        ({}, Told(heads="4 heads")),
        ({}, Told(num_heads=4)),
        ({"num_heads": 2, "channel_mult": (1, 4)}, Told(num_heads=2)),
        ({"num_heads": 1}, Told(heads="1 head")),
        ({"head_channels": 16}, Told(heads="16 channels a head")),
        ({"new_attention_order": True}, Told(num_heads=4, attention_order="new")),
        ({"new_attention_order": True, "num_heads": 1}, Told(heads="1 head", attention_order="new")),
        ({"new_attention_order": True, "head_channels": 32}, Told(heads="32 channels a head", attention_order="new")),
    ],
)
def test_a_network_as_it_was_trained_can_be_chosen(change, told, tmp_path):
    trained = own_unet(**change)
    with torch.no_grad():
        wanted = trained(X, T)
        assert torch.equal(loaded(trained, told, tmp_path)(X, T), wanted)
        assert golden_files.relative_error(loaded(trained, Told(), tmp_path)(X, T), wanted) > 1e-3


def test_what_was_chosen_is_no_guess_any_more():
    checkpoint = read(own_unet())
    assert Told(num_heads=4, training_steps=4000).of(checkpoint).guesses.keys() == {
        "attention_order",
        "schedule",
        "image_size",
    }
    everything = Told("cosine", "4 heads", 0, "new", 4000, "yes", 32).of(checkpoint)
    assert everything.guesses == {} and remark("own.pt", everything.guesses) == ""
    facts = everything.facts
    assert (facts.schedule, facts.training_steps, facts.rescale_timesteps, facts.image_size) == (
        "cosine",
        4000,
        True,
        32,
    )
    assert len(NoiseSchedule.of(facts).sigmas) == 4000


def test_nothing_chosen_changes_nothing():
    checkpoint = read(own_unet())
    assert Told().of(checkpoint) == checkpoint


@pytest.mark.parametrize(
    "told, words",
    [
        (Told(heads="8 heads", num_heads=4), "heads is '8 heads' and num_heads 4; choose one"),
        (Told(num_heads=3), "attention on 128 channels can't have 3 heads"),
        (Told(heads="128 channels a head", num_heads=0), None),
        (Told(heads="16 channels a head", attention_order="legacy"), None),
    ],
)
def test_heads_that_can_not_be_are_refused_in_words(told, words):
    checkpoint = read(own_unet())
    if words is None:
        assert told.of(checkpoint).config.head_channels == int(told.heads.split()[0])
        return
    with pytest.raises(ValueError, match=words):
        told.of(checkpoint)


def test_a_family_with_fixed_heads_has_no_choice():
    own = ddpm.DDPMConfig(channels=64, channel_mult=(1, 2), num_res_blocks=1, attention=(1,))
    with pytest.raises(ValueError, match="is a DDPM U-Net, whose heads are fixed"):
        Told(num_heads=2).of(read(on_meta(ddpm.DDPM, own)))


# --- channels


@pytest.mark.parametrize(
    "network, words",
    [
        (lambda: own_unet(in_channels=1, out_channels=1), r"input has 1 channel \(grey pictures\); 3 colour channels"),
        (lambda: own_unet(in_channels=1, out_channels=2), "grey pictures"),
        (lambda: own_unet(in_channels=4, out_channels=4), r"input has 4 channels \(latents of an autoencoder\)"),
        (lambda: own_unet(in_channels=2, out_channels=3), r"input has 2 channels \(something else\)"),
        (lambda: own_unet(out_channels=1), "predicts 1 channels; 3 are needed, or 6"),
        (lambda: own_classifier(in_channels=1), r"an ADM classifier whose input has 1 channel \(grey"),
        (lambda: on_meta(ddpm.DDPM, replace(ddpm.PUBLIC, in_channels=1, out_channels=1)), "a DDPM U-Net whose input"),
        (
            lambda: on_meta(UNet, replace(of_signature(next(iter(public.LATENT))), out_channels=3)),
            r"own\.pt is the U-Net of a latent diffusion model",
        ),
    ],
)
def test_a_model_of_anything_but_colour_pictures_is_refused_when_it_is_loaded(network, words):
    with pytest.raises(CheckpointError, match=words):
        read(network())


def test_an_upsampler_has_six_channels():
    assert read(own_unet(in_channels=6)).facts.low_res_channels == 3


def test_widths_that_no_adm_network_has_are_refused_in_words():
    state = dict(UNet(replace(OWN, model_channels=48, channel_mult=(1, 1), groups=16)).state_dict())
    with pytest.raises(CheckpointError, match=r"own\.pt looks like an ADM U-Net, but can't be built as one"):
        parse("own.pt", state, {}, registry.ARCHITECTURES)


@pytest.mark.parametrize(
    "name, value", [("num_heads", -3), ("training_steps", -1), ("training_steps", 5), ("image_size", -4)]
)
def test_a_number_that_no_training_had_is_refused_though_no_widget_stopped_it(name, value):
    """Of 20 linear steps and fewer a beta is 1: there is no such chain."""
    with pytest.raises(ValueError, match=f"{name} is {value}; 0 or "):
        Told(**{name: value})
