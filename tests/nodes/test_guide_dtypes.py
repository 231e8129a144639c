"""What half precision of encoders and classifiers costs a guide: the angle of its direction to float32's.

Losses, Gram matrices, log-softmax and directions are in float32 always; the networks are in bfloat16 where the host has
it. LOST is what was measured on the CPU, 1 - cos.
"""

from functools import partial

import pytest
import torch
from conftest import run_node
from networks import Networks, pictures, seeded

pytestmark = pytest.mark.host
TEXT = {"text_width": 64, "text_layers": 2, "text_heads": 1, "text_mlp_ratio": 4.0, "context": 77, "vocabulary": 49408}
LOST = {
    ("noise-aware CLIP", "text cosine"): 2.5e-4,
    ("noise-aware CLIP", "text spherical"): 2.3e-4,
    ("noise-aware CLIP", "content"): 1.8e-4,
    ("noise-aware CLIP", "style"): 2.8e-5,
    ("noise-aware CLIP", "difference"): 4.6e-5,
    ("noise-aware CLIP", "self-similarity"): 1.8e-4,
    ("CLIP ViT", "text cosine"): 1.0e-4,
    ("CLIP ViT", "text spherical"): 9.4e-5,
    ("CLIP ViT", "content"): 2.5e-4,
    ("CLIP ViT", "style"): 4.6e-5,
    ("CLIP ViT", "difference"): 2.9e-5,
    ("CLIP ViT", "self-similarity"): 1.1e-4,
    ("CLIP ResNet", "text cosine"): 7.4e-3,
    ("CLIP ResNet", "text spherical"): 7.5e-3,
    ("CLIP ResNet", "content"): 8.7e-3,
    ("CLIP ResNet", "style"): 6.8e-4,
    ("CLIP ResNet", "difference"): 1.2e-3,
    ("CLIP ResNet", "self-similarity"): 3.7e-3,
    ("classifier", "class"): 5.1e-4,
}


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """Checkpoints of each family, with seeded weights where the pack has no file."""
    from pack.models.architecture import Checkpoint
    from pack.models.clip import CLIP, ClipConfig
    from pack.models.lpips import LPIPS_DISTANCE, LPIPSConfig
    from pack.models.vgg import VGG, VGGConfig

    def random(architecture, config, seed=0):
        torch.manual_seed(seed)
        with torch.inference_mode(False):
            state = architecture.build(config).state_dict()
        return Checkpoint("random", architecture, config, architecture.facts(config), state)

    return {
        "CLIP ViT": random(CLIP, ClipConfig(64, 64, 128, (6,), 16, 64, 4.0, **TEXT)),
        "CLIP ResNet": random(CLIP, ClipConfig(64, 64, 16, (1, 1, 1, 1), 32, 64, 4.0, **TEXT, quick_gelu=True)),
        "VGG19": random(VGG, VGGConfig((16, 32, 64, 64, 64))),
        "LPIPS": random(LPIPS_DISTANCE, LPIPSConfig("vgg", (16, 32, 64, 64, 64))),
    }


@pytest.fixture
def loaded(monkeypatch, pack_nodes, states):
    """Encoders and classifiers of a family in a type."""
    import comfy.model_management as mm

    from pack.nodes.host.guides.encoder import load_encoder

    def of(family, dtype):
        monkeypatch.setattr(mm, "unet_dtype", lambda *args, **kwargs: dtype)
        networks = Networks(partial(run_node, pack_nodes))
        if family in states:
            return load_encoder(states[family])
        if family == "classifier":
            return networks.classifier
        return networks.encoder

    return of


def guide_of(kind, network):
    from pack.guidance.weight import Weight
    from pack.nodes.host.guides import guide as guides

    weight, image = Weight(1.0), pictures(1, 5, 64).movedim(-1, 1) * 2 - 1
    if kind == "class":
        return guides.classifier_guide(network, "star", weight, None)
    if kind.startswith("text"):
        return guides.text_guide(network, "a red star", weight, kind.split()[1], None)
    if kind == "content":
        return guides.content_guide(network, image, weight, False, None)
    if kind == "style":
        return guides.style_guide(network, image, weight, "", False, None)
    return guides.structure_guide(network, image, weight, kind, "", False, None)


def direction(guide):
    """-dE at two pictures, through four views."""
    from pack.guidance.gradient import gradient
    from pack.guidance.views import crops
    from pack.nodes.host.gradients import autograd_on
    from pack.nodes.host.guides.energies import Near, Sight, clean_energy

    sight = Sight([guide], crops(4, torch.Generator().manual_seed(0)), Near())
    with autograd_on():
        return -gradient(clean_energy(guide, sight), seeded(2, 3, 64, 64, seed=2).clamp(-1, 1), torch.zeros(2))


@pytest.mark.parametrize(("family", "kind"), LOST)
def test_a_direction_in_bfloat16_points_where_that_of_float32_does(loaded, family, kind):
    half, full = (direction(guide_of(kind, loaded(family, dtype))) for dtype in (torch.bfloat16, torch.float32))
    check(half, full, LOST[family, kind])


@pytest.mark.parametrize("family", ["VGG19", "LPIPS"])
def test_features_that_are_nearly_parallel_stay_in_float32(loaded, family):
    """In bfloat16 the cosines of their self-similarity guides were .94 and .72."""
    network = loaded(family, torch.bfloat16).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_float16_which_has_no_small_gradients_is_never_chosen(loaded):
    """The style guide of the noise-aware encoder lost all of its direction in it."""
    network = loaded("noise-aware CLIP", torch.float16).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def check(half, full, known):
    assert half.dtype == torch.float32 and torch.isfinite(half).all() and not torch.equal(half, full)
    lost = 1 - torch.nn.functional.cosine_similarity(half.flatten(1).double(), full.flatten(1).double())
    assert lost.max() <= min(0.01, 10 * known)
