"""Gradients in a host that runs everything in inference mode: leaving it narrowly, and passing through its models.

A model of the host is differentiable inside `differentiable(module)`. Four things stand in the way, each lifted for the
time of the block and put back in any case:
- weights that are inference tensors, cast or streamed in for one layer: `_frozen_layers`;
- fused kernels without a backward: `in_training`, and eager stand-ins for the kernels that ignore it;
- residuals added in place after they were saved: saved tensors are cloned;
- attention kernels without a backward: `attention` goes into the run's transformer_options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import comfy.quant_ops
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

# What autograd says, in plain RuntimeErrors: of tensors outside a graph or not let out of it, of inference tensors, of
# writing in place, of operations without a backward.
NO_DERIVATIVE = re.compile(
    r"requires?[ _]grad|used in the graph|backward through|graph leaves|incompatible with \.grad\(\)"
    r"|inference tensor|in-?place|automatic differentiation"
    r"|(derivative|backward).*not implemented|not implemented.*(derivative|backward)",
    re.IGNORECASE,
)


@contextmanager
def autograd_on() -> Iterator[None]:
    """Autograd works inside. Tensors from outside must be cloned before they are used."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def make_differentiable(module: nn.Module) -> None:
    """Replaces weights that were made under inference mode, which autograd refuses, by frozen copies.

    The host makes such weights whenever it moves a module to another device; without any, nothing happens. Layers in
    the host's dynamic memory are left alone.
    """
    with torch.inference_mode(False):
        for part in module.modules():
            _own_weights(part)


def says_no_derivative(error: RuntimeError) -> bool:
    """Whether an error is about differentiating, not about what was computed or memory for it."""
    return isinstance(error, NotImplementedError) or NO_DERIVATIVE.search(str(error)) is not None


@contextmanager
def differentiable(*modules: nn.Module, in_place: bool = True) -> Iterator[None]:
    """Autograd is on and passes through modules of the host, whatever their weights are and wherever they lie.

    `in_place`: whether they may write into what they have used; autograd refuses it where that is wrong.
    """
    with ExitStack() as stack:
        stack.enter_context(autograd_on())
        for module in modules:
            stack.enter_context(_frozen_layers(module))
        stack.enter_context(_training_kernels())
        stack.enter_context(_NormalTensors())
        if in_place:
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(_copy, lambda tensor: tensor))
        yield


def attention(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """An `optimized_attention_override` that has a backward."""
    return attention_pytorch(*args, **kwargs)


def _copy(tensor: Tensor) -> Tensor:
    """What autograd keeps of a tensor: the host's models write into theirs afterwards."""
    return tensor if isinstance(tensor, nn.Parameter) else tensor.clone()


class _NormalTensors(TorchFunctionMode):
    """Copies stand in for inference tensors that meet a graph: what patches of other nodes hold, LoRAs as layers.

    A result that goes to `out=`, which autograd refuses, is written there in place, which it knows.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values()))) if torch.is_grad_enabled() else []
        if not any(t.requires_grad for t in tensors):
            return func(*args, **kwargs)
        out = kwargs.get("out")
        if isinstance(out, Tensor):
            kwargs = {name: value for name, value in kwargs.items() if name != "out"}
        if any(t.is_inference() for t in tensors) and not (_writes(func) and tensors[0].is_inference()):
            args, kwargs = tree_map(_normal, (args, kwargs))
        found = func(*args, **kwargs)
        return out.copy_(found) if isinstance(out, Tensor) else found


def _tensors(parts: Iterable[Any]) -> Iterator[Tensor]:
    """Those among arguments and in their lists; PyTorch's own walk through any container takes as long as a launch."""
    for part in parts:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, list | tuple):
            yield from _tensors(part)


def _writes(func: Any) -> bool:
    """Whether a function changes its first tensor: writing into a copy would be lost, autograd's error is better."""
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))


def _normal(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


@contextmanager
def _training_kernels() -> Iterator[None]:
    """The host's own switch for differentiable code, and plain PyTorch for the fused kernels that don't look at it."""
    with ExitStack() as stack:
        stack.callback(setattr, mm, "in_training", mm.in_training)
        mm.in_training = True
        fused = getattr(comfy.quant_ops, "ck", None)
        if fused is not None:
            stack.callback(setattr, comfy.quant_ops, "ck", fused)
            comfy.quant_ops.ck = _EagerKernels(fused)
        yield


class _EagerKernels:
    """The kernel library with its rotary embeddings and modulations in plain PyTorch, which autograd knows."""

    def __init__(self, fused: Any):
        self.fused = fused

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("apply_rope", "rms_rope", "adaln", "rms_adaln")) and not name.endswith("_"):
            from comfy_kitchen.backends import eager

            return getattr(eager, name)
        return getattr(self.fused, name)


@contextmanager
def _frozen_layers(module: nn.Module) -> Iterator[None]:
    """Layers that fetch their weights themselves become functions with a backward that fetches them again.

    Nothing of their weights is saved, so they may be inference tensors, cast for the call, quantised, or streamed into
    a buffer that the next layer overwrites. All other weights are made normal tensors.
    """
    layers = [part for part in module.modules() if _vjp_of(part) is not None and _runs_itself(part)]
    originals = {layer: layer.__dict__.get("forward") for layer in layers}
    kept = {id(layer) for layer in layers}
    for part in module.modules():
        if id(part) not in kept:
            _own_weights(part)
    try:
        for layer in layers:
            layer.forward = _Frozen(layer, layer.forward)
        yield
    finally:
        for layer, original in originals.items():
            del layer.forward
            if original is not None:
                layer.forward = original


def _runs_itself(layer: nn.Module) -> bool:
    """Whether a layer's forward is the host's: a bypassed LoRA replaces it, a ControlLora has layers of its own."""
    replaced = layer.__dict__.get("forward")
    own = replaced is None or getattr(replaced, "__func__", None) is type(layer).forward
    return own and type(layer).forward.__module__ == comfy.ops.__name__


def _own_weights(part: nn.Module) -> None:
    """`make_differentiable` for one module without its children."""
    if hasattr(part, "_v"):  # in the host's dynamic memory
        return
    for name, parameter in part._parameters.items():
        if parameter is not None and parameter.is_inference():
            part._parameters[name] = nn.Parameter(parameter.clone(), requires_grad=False)
    for name, buffer in part._buffers.items():
        if buffer is not None and buffer.is_inference():
            part._buffers[name] = buffer.clone()


class _Frozen:
    """A layer's forward for the time of a `_frozen_layers` block."""

    def __init__(self, layer: nn.Module, forward: Callable[..., Tensor]):
        self.layer = layer
        self.run = forward

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not torch.is_grad_enabled():
            return self.run(x, *args, **kwargs)
        if not x.requires_grad:
            return _without_graph(self.run, x)  # the weights of a ControlNet require gradients in the host
        return _FrozenFunction.apply(x, self.layer, self.run)


def _without_graph(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A view would not survive the host's writing into it."""
    with torch.no_grad():
        y = run(x)
    return y.clone() if y._is_view() else y


class _FrozenFunction(torch.autograd.Function):
    """y = layer(x); backward multiplies by the layer's Jacobian with the weights fetched anew."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module, run: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        ctx.linear = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or _is_linear(layer)
        if not ctx.linear:
            ctx.save_for_backward(x.clone())
        return _without_graph(run, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        with torch.inference_mode(False), torch.no_grad():  # so that weights may be inference tensors
            weight, bias, stream = comfy.ops.cast_bias_weight(ctx.layer, grad, offloadable=True)
            try:
                vjp = _vjp_of(ctx.layer)
                assert vjp is not None
                x = None if ctx.linear else ctx.saved_tensors[0]
                result = vjp(ctx.layer, grad, ctx.shape, x, *(_dense(part) for part in (weight, bias)))
            finally:
                comfy.ops.uncast_bias_weight(ctx.layer, weight, bias, stream)
        return result, None, None


def _dense(weight: Tensor | None) -> Tensor | None:
    """A weight that is not quantised."""
    return weight.dequantize() if isinstance(weight, comfy.quant_ops.QuantizedTensor) else weight


def _is_linear(layer: nn.Module) -> bool:
    """Quantised ones are no nn.Linear."""
    return hasattr(layer, "in_features") and hasattr(layer, "out_features") and getattr(layer, "weight", 0) is not None


Vjp = Callable[[Any, Tensor, torch.Size, "Tensor | None", "Tensor | None", "Tensor | None"], Tensor]


def _linear_vjp(layer: Any, grad: Tensor, shape: torch.Size, x: Any, weight: Any, bias: Any) -> Tensor:
    return grad @ weight


def _conv_vjp(layer: Any, grad: Tensor, shape: torch.Size, x: Any, weight: Any, bias: Any) -> Tensor:
    axes = len(shape) - 2
    stand_in = grad.new_empty(()).expand(shape)  # only its shape is read
    options = (layer.stride, layer.padding, layer.dilation, False, [0] * axes, layer.groups, (True, False, False))
    return torch.ops.aten.convolution_backward(grad, stand_in, weight, None, *options)[0]


def _norm_vjp(function: Callable[..., Tensor]) -> Vjp:
    def vjp(layer: Any, grad: Tensor, shape: torch.Size, x: Any, weight: Any, bias: Any) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (result,) = torch.autograd.grad(function(layer, x, _normal(weight), _normal(bias)), x, grad)
        return result

    return vjp


_group_norm = _norm_vjp(lambda m, x, weight, bias: functional.group_norm(x, m.num_groups, weight, bias, m.eps))
_layer_norm = _norm_vjp(lambda m, x, weight, bias: functional.layer_norm(x, m.normalized_shape, weight, bias, m.eps))
_rms_norm = _norm_vjp(lambda m, x, weight, bias: functional.rms_norm(x, m.normalized_shape, weight, m.eps))


def _vjp_of(layer: nn.Module) -> Vjp | None:
    """How a layer of the host's operations is differentiated; None: by autograd itself."""
    if not hasattr(layer, "comfy_cast_weights") or getattr(layer, "weight", None) is None:
        return None
    if _is_linear(layer):
        return _linear_vjp
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return _conv_vjp if plain else None
    for kind, vjp in ((nn.GroupNorm, _group_norm), (nn.LayerNorm, _layer_norm), (nn.RMSNorm, _rms_norm)):
        if isinstance(layer, kind):
            return vjp
    return None
