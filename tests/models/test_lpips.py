"""LPIPS files: recognised by their keys, and the published distance on torchvision's networks."""

import lpips_files
import pytest
import torch

from pack.guidance.asyrp_timing import perceptual
from pack.models.architecture import parse
from pack.models.encoder import DIFFERENCE, SELF_SIMILARITY, STYLE
from pack.models.registry import ARCHITECTURES
from pack.models.state_dict import CheckpointError


@pytest.fixture(scope="module", params=["alex", "vgg"])
def lpips(request):
    """(net, torchvision's features, weights, our network out of the file's state)."""
    features, weights = lpips_files.drawn(request.param)
    checkpoint = parse("lpips.pth", lpips_files.state(request.param, features, weights), {}, ARCHITECTURES)
    network = checkpoint.build()
    network.load_state_dict(checkpoint.state, strict=True)
    return request.param, features, weights, network.eval().requires_grad_(False), checkpoint


def test_a_file_of_the_package_is_recognised_with_its_net(lpips):
    net, _, _, _, checkpoint = lpips
    assert checkpoint.architecture.id == "lpips" and checkpoint.config.net == net
    assert checkpoint.facts.image_size == 256 and not checkpoint.facts.noise_aware


def test_the_distance_of_its_maps_is_the_papers(lpips):
    net, features, weights, network, _ = lpips
    x, y = torch.rand(2, 3, 3, 64, 64) * 2 - 1
    found = perceptual(*(network.maps(part, torch.zeros(3), network.layers) for part in (x, y)))
    torch.testing.assert_close(found, lpips_files.distance(net, features, weights, x, y), rtol=1e-4, atol=1e-6)


def test_a_picture_is_at_distance_zero_from_itself(lpips):
    network = lpips[3]
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    maps = network.maps(x, torch.zeros(1), network.layers)
    assert perceptual(maps, maps) == 0


@pytest.mark.parametrize("purpose", [STYLE, DIFFERENCE, SELF_SIMILARITY])
def test_its_maps_carry_gradients_for_other_guides_also_on_a_flat_picture(lpips, purpose):
    network = lpips[3]
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    maps = network.maps(x, torch.zeros(1), network.usual_layers[purpose])
    (grad,) = torch.autograd.grad(sum(part.square().sum() for part in maps), x)
    assert grad.isfinite().all()


def test_it_has_no_embedding_and_no_texts(lpips):
    network = lpips[3]
    with pytest.raises(ValueError, match="LPIPS has features but no embedding; use a CLIP here"):
        network.embed(torch.zeros(1, 3, 64, 64), torch.zeros(1))
    with pytest.raises(ValueError, match="LPIPS knows no texts; connect a CLIP to text_encoder"):
        network.embed_text("a cat")


def test_the_packages_bare_channel_weights_are_no_encoder():
    with pytest.raises(CheckpointError, match="for which it lacks: .*net.slice1.0.weight"):
        parse("alex.pth", {"lin0.model.1.weight": torch.rand(1, 64, 1, 1)}, {}, ARCHITECTURES)
