"""Our ADM networks print what openai/guided-diffusion printed."""

import golden_files
import pytest
import torch
from pack.models.adm import network as adm

CASES = ("adm_uncond_learned_sigma", "adm_classcond_cosine_fixed")


def encoder_arguments(published, image_size):
    arguments = {"scale_shift_norm": False, "resblock_updown": False, "out_channels": 3, **published}
    renamed = {
        "attention_resolutions": "attention",
        "num_head_channels": "head_channels",
        "use_scale_shift_norm": "scale_shift_norm",
    }
    arguments = {renamed.get(key, key): value for key, value in arguments.items() if key != "image_size"}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}


def unet(arguments):
    outputs = 6 if arguments["diffusion"]["learn_sigma"] else 3
    config = adm.UNetConfig(**encoder_arguments({"out_channels": outputs, **arguments["unet"]}, 16))
    return golden_files.fill(adm.UNet(config), arguments["salt"] + "unet.")


def classifier(arguments):
    published = {"out_channels": arguments["num_classes"], **arguments["classifier"]}
    config = adm.ClassifierConfig(image_size=16, **encoder_arguments(published, 16))
    return golden_files.fill(adm.Classifier(config), arguments["salt"] + "classifier.")


@pytest.mark.parametrize("case", CASES)
def test_the_unet_forward_is_the_published_one(case):
    arguments, golden = golden_files.load(case)
    network = unet(arguments)
    y = golden["y"] if network.config.num_classes else None
    out = network(golden["forward.x"], golden["forward.t"], y)
    assert golden_files.relative_error(out, golden["forward.out"]) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_the_classifier_logits_are_the_published_ones(case):
    arguments, golden = golden_files.load(case)
    logits = classifier(arguments)(golden["forward.x"], golden["forward.t"])
    assert golden_files.relative_error(logits, golden["classifier.logits"]) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_the_classifier_gradient_is_the_published_one(case):
    arguments, golden = golden_files.load(case)
    x = golden["forward.x"].requires_grad_(True)
    logits = classifier(arguments)(x, golden["forward.t"])
    chosen = logits.log_softmax(-1)[torch.arange(len(x)), golden["y"]]
    (grad,) = torch.autograd.grad(chosen.sum(), x)
    assert golden_files.relative_error(grad, golden["classifier.grad"]) < 1e-4
