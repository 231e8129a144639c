"""Our ADM networks print what openai/guided-diffusion printed."""

import golden_files
import pytest
import torch
from adm_golden import CASES, classifier, unet


@pytest.mark.parametrize("case", CASES)
def test_the_unet_forward_is_the_published_one(case):
    arguments, golden = golden_files.load(case)
    network = unet(arguments)
    y = golden["y"] if network.config.num_classes else None
    out = network(golden["forward.x"], golden["forward.t"], y)
    assert golden_files.relative_error(out, golden["forward.out"]) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_the_classifier_logits_are_the_published_ones(case):
    arguments, golden = golden_files.load(case)
    logits = classifier(arguments)(golden["forward.x"], golden["forward.t"])
    assert golden_files.relative_error(logits, golden["classifier.logits"]) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_the_classifier_gradient_is_the_published_one(case):
    arguments, golden = golden_files.load(case)
    x = golden["forward.x"].requires_grad_(True)
    logits = classifier(arguments)(x, golden["forward.t"])
    chosen = logits.log_softmax(-1)[torch.arange(len(x)), golden["y"]]
    (grad,) = torch.autograd.grad(chosen.sum(), x)
    assert golden_files.relative_error(grad, golden["classifier.grad"]) < 1e-5
