"""What HSpace Edit costs in counted FLOPs, in the host's own run; full-size networks count on the meta device."""

import gzip
import json
import re
from dataclasses import dataclass

import host_unets
import pytest
import torch
from conftest import ROOT, run_node
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

pytestmark = pytest.mark.host
ONE_STEP = torch.tensor([10.0, 0.0])
WINDOWS = {"inside": (0.0, 1.0), "outside": (0.99, 1.0)}  # of that step
DECODER = re.compile(r"\.(output_blocks\.\d+|out)\.\d+$")  # the layers of the decoder half

# Of a plain step, inside the window. The shipped network has one block a level in its encoder and two in its decoder,
# which is 79 % of it; other networks have two and three.
MOST = {"shipped": 1.80, "ADM 256x256": 1.75, "SD1.5": 1.75, "SDXL": 1.75}


def attention_flops(query, key, value, *args, **kwargs):
    return sdpa_flop_count(query, key, value)


# torch counts the attention of GPUs, and that of the meta device by its products; the CPU's kernel it does not know.
ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


def flops(call):
    """All of them, and those of a U-Net's decoder half."""
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        call()
    counts = counter.get_flop_counts()
    return counter.get_total_flops(), sum(sum(counts[name].values()) for name in counts if DECODER.search(name))


@dataclass
class Network:
    """A MODEL, its conditions, the shape of a sample, and the channels of its bottleneck."""

    model: object
    conditions: list
    shape: tuple
    channels: int

    def step(self, model):
        return flops(lambda: host_unets.euler(model, torch.zeros(1, *self.shape), self.conditions, sigmas=ONE_STEP))


def shipped(pack_nodes):
    """This pack's own U-Net with its weights, on the CPU."""
    (model, _) = run_node(pack_nodes, "Guidance_LoadModel", model_name="scenes_unet.safetensors")
    (cond,) = run_node(pack_nodes, "Guidance_ClassConditioning", model=model, class_label="star")
    config = model.model.diffusion_model.network.config
    return Network(model, [cond, cond], (3, 32, 32), config.model_channels * config.channel_mult[-1])


def adm_256(pack_nodes):
    """guided-diffusion's 256x256 network without classes."""
    from pack.models.architecture import parse
    from pack.models.registry import ARCHITECTURES
    from pack.nodes.host.conditioning import class_conditioning
    from pack.nodes.host.pixel_model import PixelConfig, PixelModel

    layouts = json.loads(gzip.decompress((ROOT / "tests/golden/checkpoint_layouts.json.gz").read_bytes()))
    shapes = layouts["adm/256x256_diffusion_uncond.pt"]["keys"]
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    checkpoint = parse("256.pt", state, {}, ARCHITECTURES)
    config = PixelConfig(checkpoint)
    config.set_inference_dtype(torch.float32, None)
    model = PixelModel(config, checkpoint.facts, device=torch.device("meta"))
    conditions = [class_conditioning([-1])] * 2
    return Network(host_unets.on_meta(host_unets.patcher(model)), conditions, (3, 256, 256), 1024)


def sd15(pack_nodes):
    model, conditions = host_unets.sd15(device="meta")
    return Network(host_unets.on_meta(model), conditions, (4, 64, 64), 1280)


def sdxl(pack_nodes):
    model, conditions = host_unets.sdxl(device="meta")
    return Network(host_unets.on_meta(model), conditions, (4, 128, 128), 1280)


NETWORKS = {"shipped": shipped, "ADM 256x256": adm_256, "SD1.5": sd15, "SDXL": sdxl}


@pytest.fixture(scope="module", autouse=True)
def torch_attention(comfy):
    """The host's attention of GPUs; that of CPUs asks how much memory a device has, and meta has none."""
    from comfy.ldm.modules import attention

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "optimized_attention", attention.attention_pytorch)
        yield


@pytest.fixture(scope="module", params=NETWORKS)
def measured(request, pack_nodes):
    """A network's name, the network, and its plain step."""
    network = NETWORKS[request.param](pack_nodes)
    return request.param, network, network.step(network.model)


def runs_again(name, plain, decoder):
    """Hosts before 0.24 let no node see the middle of their U-Nets; there an edit evaluates the whole network again."""
    ours = name in ("shipped", "ADM 256x256")
    return decoder if ours or host_unets.has_middle_patch() else plain


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("window", WINDOWS)
def test_an_edited_step_costs_the_decoder_half_more_inside_the_window_alone(measured, execute, window, asymmetric):
    name, network, (plain, decoder) = measured
    again = runs_again(name, plain, decoder) if window == "inside" else 0
    direction = host_unets.random(1, network.channels, 1, 1, seed=2)
    options = {"window": WINDOWS[window], "asymmetric": asymmetric}
    edited, _ = network.step(host_unets.edited(execute, network.model, direction, **options))
    ratio = edited / plain
    said = f"{name}, {window}: {edited / 1e9:.2f} over {plain / 1e9:.2f} GFLOP, {ratio:.3f}"
    assert 0 < decoder < plain
    assert edited == plain + again, said
    assert again == plain or ratio <= MOST[name], said


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_is_counted(device):
    """2 pictures, 4 heads, [16 8] by [8 5] and [16 5] by [5 8]; a product of [a b] and [b c] is 2 a b c."""
    query, key = torch.zeros(2, 4, 16, 8, device=device), torch.zeros(2, 4, 5, 8, device=device)
    with torch.inference_mode():
        counted, _ = flops(lambda: scaled_dot_product_attention(query, key, key))
    assert counted == (2 * 4) * 2 * (2 * 16 * 8 * 5)
