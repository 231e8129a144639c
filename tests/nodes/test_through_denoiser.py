"""Through denoiser on the host's own model classes: exact against finite differences, and the host as before."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from families.configs import FLUX, MMDIT

pytestmark = pytest.mark.host

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 2),
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 16,
    "use_spatial_transformer": True,
    "legacy": False,
}
KINDS = {
    "SD15": ({**UNET, "transformer_depth_output": [1] * 4}, 2.0),
    "SD3": (MMDIT, 0.6),
    "Flux": (FLUX | {"image_model": "flux"}, 0.6),
}
WEIGHT = 10.0


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fill(module):
    """Random weights, which the host's layers leave uninitialised."""
    for index, (name, entry) in enumerate(module.state_dict().items()):
        if entry.ndim > 1:
            entry.copy_(random(*entry.shape, seed=index) / entry[0].numel() ** 0.5)
        else:
            entry.copy_(random(*entry.shape, seed=index) * 0.1 + (0.0 if "bias" in name else 1.0))


def loaded(kind, dtype=torch.float32):
    """A MODEL as a loader node of the host makes it."""
    import comfy.model_patcher
    import comfy.supported_models

    with torch.inference_mode():
        config = getattr(comfy.supported_models, kind)(KINDS[kind][0])
        config.set_inference_dtype(dtype, None if dtype == torch.float32 else torch.float32)
        network = config.get_model({}, "", device=None)
        fill(network.diffusion_model)
        cpu = torch.device("cpu")
        return comfy.model_patcher.CoreModelPatcher(network, load_device=cpu, offload_device=cpu)


@dataclass
class Scene:
    """A model, a noise level and a batch of two samples of it."""

    model: Any
    cfg: float = 1.0
    control: Any = None

    def __post_init__(self):
        self.sigma = KINDS[type(self.model.model.model_config).__name__][1]
        with torch.inference_mode():
            channels = self.model.model.latent_format.latent_channels
            self.x = random(2, channels, 8, 8, seed=1) * (1 + self.sigma)
        self.wanted = random(1, 3, 64, seed=2)

    def predictions(self, points, model=None):
        """What a sampler sees at some points of one run, under inference mode as in the host."""
        import comfy.samplers

        def look(model, x, sigmas, extra_args, callback, disable):
            found.extend(model(point, sigmas[0].expand(len(point)), **extra_args) for point in points)
            return x

        found = []
        with torch.inference_mode():
            guider = comfy.samplers.CFGGuider(model or self.model)
            more = {} if self.control is None else {"control": self.control, "control_apply_to_uncond": True}
            conds = [[[random(1, 5, 16, seed=n), {"pooled_output": random(1, 16, seed=n), **more}]] for n in (3, 4)]
            guider.set_conds(*conds)
            guider.set_cfg(self.cfg)
            zeros, sigmas = torch.zeros_like(self.x), torch.tensor([self.sigma, 0.0])
            guider.sample(zeros, zeros, comfy.samplers.KSAMPLER(look), sigmas, seed=0)
        return found

    def guided(self, gradient="through denoiser", compare=None):
        """The model with a guide that likes a pattern of colours: E = <colours, wanted>."""
        from pack.guidance.weight import Weight
        from pack.nodes.host.guides.application import Application
        from pack.nodes.host.guides.guide import COLOURS_ONLY, Guide
        from pack.nodes.host.guides.report import Report
        from pack.nodes.host.guides.run import apply

        guide = Guide(
            name="pattern",
            weight=Weight(WEIGHT),
            measure=lambda colours, sigma: [colours],
            compare=compare or (lambda found, wanted: (found[0] * wanted[0]).sum((1, 2))),
            size=COLOURS_ONLY,
            noise_aware=False,
            scale=1.0,
            wanted=[self.wanted],
        )
        settings = {"strength": 1.0, "unit": "paper", "cap": 0.0, "every": 1, "inner_steps": 1, "views": 1, "frames": 1}
        with torch.inference_mode():
            given = Application([guide], None, gradient=gradient, recurrence=1, report=Report(), **settings)
            return apply(self.model, given)

    def energy(self, denoised):
        factors = torch.tensor(self.model.model.latent_format.latent_rgb_factors).double()
        colours = torch.einsum("cr,bcn->brn", factors, denoised.double().flatten(2))
        return (colours * self.wanted).sum((1, 2))

    def gradient(self):
        """d energy / dx, read off the guided prediction: denoised - shift weight gradient."""
        shift = self.sigma**2 / (1 - self.sigma) if self.sigma < 1 else self.sigma**2
        (plain,), (guided,) = self.predictions([self.x]), self.predictions([self.x], self.guided())
        return (plain - guided) / (shift * WEIGHT)

    def slopes(self):
        """Of the energy along random directions, [2, n]: by our gradient, and by central differences."""
        grad = self.gradient().double()
        directions, h = [random(*self.x.shape, seed=10 + n) for n in range(4)], 2e-3
        points = [self.x + side * h * along for along in directions for side in (1, -1)]
        energies = [self.energy(denoised) for denoised in self.predictions(points)]
        differences = [(up - down) / (2 * h) for up, down in zip(energies[::2], energies[1::2], strict=True)]
        ours = [(grad * along).flatten(1).sum(1) for along in directions]
        return torch.stack(ours, 1), torch.stack(differences, 1)


def assert_exact(scene):
    ours, differences = scene.slopes()
    error = (ours - differences).norm(dim=1) / differences.norm(dim=1)
    assert error.max() < 3e-3


def assert_host_as_before(scene, ck, before):
    import comfy.model_management
    import comfy.quant_ops

    assert comfy.model_management.in_training is False
    assert getattr(comfy.quant_ops, "ck", None) is ck
    assert not any("forward" in part.__dict__ for part in scene.model.model.modules())
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    assert torch.equal(scene.predictions([scene.x])[0], before)


@pytest.fixture
def scene(comfy):
    return Scene(loaded("SD15"))


@pytest.mark.parametrize(("dtype", "cfg"), [("float32", 1.0), ("float32", 4.0), ("bfloat16", 4.0), ("float16", 1.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(kind, dtype, cfg, comfy):
    model = loaded(kind, getattr(torch, dtype))
    weights = list(model.model.diffusion_model.parameters())
    assert all(weight.is_inference() and weight.dtype == getattr(torch, dtype) for weight in weights)
    assert_exact(Scene(model, cfg))


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_a_large_part_of_the_gradient(kind, comfy):
    scene = Scene(loaded(kind))
    factors = torch.tensor(scene.model.model.latent_format.latent_rgb_factors)
    without = torch.einsum("cr,brn->bcn", factors, scene.wanted).reshape(1, *scene.x.shape[1:])
    assert (scene.gradient() - without).norm() > 0.2 * without.norm()


def test_the_two_conditionings_are_differentiated_in_one_batch(comfy):
    scene, batches = Scene(loaded("SD15"), cfg=4.0), []

    def count(apply_model, args):
        batches.append((len(args["input"]), args["input"].requires_grad))
        return apply_model(args["input"], args["timestep"], **args["c"])

    scene.model.set_model_unet_function_wrapper(count)
    assert_exact(scene)
    assert (4, True) in batches and {size for size, _ in batches} == {4}


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_is_as_before_after_a_run(kind, comfy):
    import comfy.quant_ops

    scene, ck = Scene(loaded(kind), cfg=4.0), getattr(comfy.quant_ops, "ck", None)
    (before,) = scene.predictions([scene.x])
    (guided,) = scene.predictions([scene.x], scene.guided())
    assert not torch.equal(guided, before)
    assert_host_as_before(scene, ck, before)


@pytest.mark.parametrize("place", ["guide", "model"])
def test_the_host_is_as_before_after_an_error(place, scene):
    import comfy.quant_ops

    def fail(*args):
        raise KeyError("broken")

    ck = getattr(comfy.quant_ops, "ck", None)
    (before,) = scene.predictions([scene.x])
    guided = scene.guided(compare=fail if place == "guide" else None)
    if place == "model":
        guided.set_model_unet_function_wrapper(fail)
    with pytest.raises(KeyError, match="broken"):
        scene.predictions([scene.x], guided)
    assert_host_as_before(scene, ck, before)


def test_a_model_without_a_derivative_is_refused_in_a_sentence(scene):
    @torch.library.custom_op("guidance_tests::halve", mutates_args=())
    def halve(h: torch.Tensor) -> torch.Tensor:
        return h / 2

    without_graph, without_backward = scene.guided(), scene.guided()
    without_graph.set_model_unet_function_wrapper(lambda run, args: torch.zeros_like(args["input"]))
    without_backward.set_model_input_block_patch(lambda h, options: halve(h))
    for guided in (without_graph, without_backward):
        with pytest.raises(ValueError, match="can't be differentiated .* use gradient = at denoised"):
            scene.predictions([scene.x], guided)


def halved_in_place(h):
    h.unbind(0)[0].mul_(0.5)
    return h


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (lambda h, held: torch.nextafter(h, h + 1), "derivative for .* is not implemented"),
        (lambda h, held: torch.from_numpy(h.numpy()), "requires grad"),
        (lambda h, held: torch.sort(h, out=(torch.empty_like(h), torch.empty_like(h).long()))[0], "differentiation"),
        (lambda h, held: halved_in_place(h), "modified inplace"),
        (lambda h, held: held.copy_(h[0, 0, 0, 0]) * h, "inference tensor"),
    ],
    ids=["no formula", "numpy", "two outs", "view in place", "inference tensor"],
)
def test_what_a_patch_does_that_has_no_derivative_is_named_in_a_sentence(patch, said, scene):
    with torch.inference_mode():
        held = torch.zeros(())
    guided = scene.guided()
    guided.set_model_input_block_patch(lambda h, options: patch(h, held))
    with pytest.raises(ValueError, match=f"can't be differentiated .*{said}.* use gradient = at denoised"):
        scene.predictions([scene.x], guided)


@pytest.mark.parametrize("place", [torch.empty_like, lambda h: h], ids=["elsewhere", "into its input"])
def test_a_result_that_goes_to_out_has_the_gradient_of_one_that_is_returned(place, scene):
    """As blocks of the host's text networks add, in whose class HiDream-O1 draws, since 0.33."""
    returned, written = scene.guided(), scene.guided()
    returned.set_model_input_block_patch(lambda h, options: torch.mul(h.sigmoid(), h))
    written.set_model_input_block_patch(lambda h, options: torch.mul(h.sigmoid(), h, out=place(h)))
    (found,), (expected,) = scene.predictions([scene.x], written), scene.predictions([scene.x], returned)
    assert torch.equal(found, expected)


class BrokenBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        return h.clone()

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] @ torch.zeros(3, 3)


def out_of_memory(h):
    raise torch.cuda.OutOfMemoryError("Allocation on device")


@pytest.mark.parametrize(
    ("patch", "kind", "said"),
    [
        (lambda h: h @ torch.zeros(3, 3), RuntimeError, "shapes cannot be multiplied"),
        (BrokenBackward.apply, RuntimeError, "shapes cannot be multiplied"),
        (out_of_memory, torch.cuda.OutOfMemoryError, "Allocation on device"),
    ],
    ids=["shapes", "shapes of a backward", "out of memory"],
)
def test_errors_about_other_things_than_derivatives_pass_as_they_are(patch, kind, said, scene):
    guided = scene.guided()
    guided.set_model_input_block_patch(lambda h, options: patch(h))
    with pytest.raises(kind, match=said) as error:
        scene.predictions([scene.x], guided)
    assert type(error.value) is kind


@pytest.mark.parametrize(
    ("node", "said"), [("EasyCacheNode", "easycache reuses"), ("LazyCacheNode", "lazycache reuses"), ("", "compiled")]
)
def test_caches_and_compiled_models_are_refused_in_a_sentence(node, said, scene):
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras import nodes_easycache

    guided = scene.guided()
    if node:
        settings = {"reuse_threshold": 0.2, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
        (guided,) = getattr(nodes_easycache, node).execute(guided, **settings).args
    else:
        set_torch_compile_wrapper(guided, backend="eager")
    with pytest.raises(ValueError, match=f"{said}.* use gradient = at denoised"):
        scene.predictions([scene.x], guided)


@pytest.mark.parametrize("kind", KINDS)
def test_at_denoised_leaves_the_model_out(kind, comfy):
    """Its direction is the pattern itself, times the variance of x0 given x."""
    scene = Scene(loaded(kind), cfg=4.0)
    (plain,), (guided,) = scene.predictions([scene.x]), scene.predictions([scene.x], scene.guided("at denoised"))
    factors = torch.tensor(scene.model.model.latent_format.latent_rgb_factors)
    pattern = torch.einsum("cr,brn->bcn", factors, scene.wanted).reshape(1, *scene.x.shape[1:]).expand_as(scene.x)
    torch.testing.assert_close((plain - guided) / (plain - guided).norm(), pattern / pattern.norm())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_goes_through_a_lora(dtype, comfy):
    scene = Scene(loaded("SD15", getattr(torch, dtype)))
    (plain,) = scene.predictions([scene.x])
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_v.weight"
    down, up = random(4, 64, seed=20), random(64, 4, seed=21)
    with torch.inference_mode():
        scene.model = scene.model.clone()
        assert scene.model.add_patches({key: ("diff", (up @ down / 8,))}) == [key]
    assert not torch.allclose(scene.predictions([scene.x])[0], plain)
    assert_exact(scene)


def test_the_gradient_goes_through_the_patches_of_other_nodes(scene):
    with torch.inference_mode():
        held = random(5, 1, 1, seed=40)
    scene.model.set_model_output_block_patch(lambda h, skip, options: (h * held[0], skip * held[1]))
    scene.model.set_model_input_block_patch(lambda h, options: torch.sigmoid(h).mul_(2.0))
    scene.model.set_model_attn1_output_patch(lambda h, options: h.square())
    scene.model.set_model_sampler_post_cfg_function(lambda args: torch.sin(args["denoised"]))
    assert_exact(scene)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_gradient_goes_through_a_controlnet(dtype, comfy):
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    scene = Scene(loaded("SD15", getattr(torch, dtype)), cfg=4.0)
    (plain,) = scene.predictions([scene.x])
    with torch.inference_mode():
        cast = None if dtype == "float32" else torch.float32
        layers = comfy.ops.manual_cast if cast else comfy.ops.disable_weight_init
        more = {"hint_channels": 3, "num_heads": 8, "dtype": getattr(torch, dtype), "operations": layers}
        network = comfy.cldm.cldm.ControlNet(**{key: UNET[key] for key in UNET if key != "out_channels"}, **more)
        fill(network)
        control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"), manual_cast_dtype=cast)
        scene.control = control.set_cond_hint(random(1, 3, 64, 64, seed=30))
    assert not torch.allclose(scene.predictions([scene.x])[0], plain)
    assert_exact(scene)
    assert not any("forward" in part.__dict__ for part in network.modules())


def test_the_gradient_goes_through_a_bypassed_lora(scene):
    """It replaces the forward of layers."""
    import comfy.sd

    (plain,) = scene.predictions([scene.x])
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_v"
    with torch.inference_mode():
        lora = {f"{key}.lora_down.weight": random(4, 64, seed=20), f"{key}.lora_up.weight": random(64, 4, seed=21)}
        scene.model, _ = comfy.sd.load_bypass_lora_for_models(scene.model, None, lora, 0.2, 0.0)
    assert not torch.allclose(scene.predictions([scene.x])[0], plain)
    assert_exact(scene)
