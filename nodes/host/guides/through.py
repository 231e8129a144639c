"""Predictions that can be differentiated: `through denoiser` on the host's models, and what refuses it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import torch
from comfy.sampler_helpers import get_additional_models
from torch import Tensor, nn

from ....guidance.tensors import append_dims
from ..gradients import attention, autograd_on, differentiable, says_no_derivative

# What autograd keeps, in units of the host's room where attention is fused, by the host's configurations: counted on
# networks of full size without weights, at half precision. A GPU's peaks for SD1.5 and SDXL are the same.
KEPT = {"SD15": 7.6, "SD20": 7.6, "SD3": 5.8, "SDXL": 18.3, "Flux": 18.9, "WAN21_T2V": 29.2}


def kept(model: Any, noise_shape: Sequence[int]) -> float:
    """Bytes that autograd keeps of one prediction of one sample, ControlNets left out.

    positions * bytes of a number * memory_usage_factor * 0.01 MiB * KEPT; but for KEPT it is `memory_required` of the
    host's BaseModel. Kinds of networks that were not counted are taken for the largest.
    """
    base = model.model
    kinds = [kind.__name__ for kind in type(base.model_config).__mro__]
    times = next((KEPT[kind] for kind in kinds if kind in KEPT), max(KEPT.values()))
    size = mm.dtype_size(base.get_dtype_inference())
    return math.prod(noise_shape[2:]) * size * base.memory_usage_factor * 0.01 * 2**20 * times


def with_graph(
    guider: Any, execute: Callable[[Tensor, dict[str, Any]], Tensor], x: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The prediction and its vector-Jacobian product. Raises ValueError for models that can't be differentiated.

    The product is linear, so each sample's vector passes the model with its largest number at 1, where half precision
    is at home, and gets its size back in float32.
    """
    inner = guider.inner_model
    _refuse_caches(options)
    transformer = {**options.get("transformer_options", {}), "optimized_attention_override": attention}
    options = {**options, "transformer_options": transformer}
    options.pop("multigpu_clones", None)  # they run without a graph
    with _refusals(), differentiable(inner, *_networks_beside(guider.conds)):
        leaf = x.clone().requires_grad_(True)
        denoised = execute(leaf, options)
    if not denoised.requires_grad:
        raise _undifferentiable("its prediction has no graph")

    def pull_back(grad: Tensor) -> Tensor:
        size = append_dims(grad.flatten(1).abs().amax(1).float(), grad.ndim)
        size = torch.where(size > 0, size, torch.ones_like(size))
        with _refusals(), autograd_on():
            (pulled,) = torch.autograd.grad(denoised, leaf, (grad / size).to(denoised).clone(), retain_graph=True)
        return pulled.float() * size

    return denoised.detach(), pull_back


@contextmanager
def _refusals() -> Iterator[None]:
    """A sentence for what has no derivative; every other error of a model is left as it is, for the host to show."""
    try:
        yield
    except mm.OOM_EXCEPTION:
        logging.warning("Diffusion Guidance: through denoiser ran out of memory; at denoised needs far less")
        raise
    except RuntimeError as error:
        if not says_no_derivative(error):
            raise
        raise _undifferentiable((str(error) or type(error).__name__).splitlines()[0][:200]) from error


def _networks_beside(conds: dict[str, list[dict[str, Any]]]) -> list[nn.Module]:
    """What conditionings bring along and the noisy sample passes: ControlNets, GLIGEN."""
    found = {id(patcher.model): patcher.model for patcher in get_additional_models(conds, torch.float32)[0]}
    for cond in [cond for part in conds.values() for cond in part]:
        control = cond.get("control")
        while control is not None:  # a ControlLora has no patcher
            network = getattr(control, "control_model", None)
            found[id(network)] = network
            control = control.previous_controlnet
    return [network for network in found.values() if isinstance(network, nn.Module)]


def _undifferentiable(reason: str) -> ValueError:
    return ValueError(
        f"through denoiser: this model, as it is loaded or patched, can't be differentiated ({reason}); "
        "use gradient = at denoised, which works with every model"
    )


def _refuse_caches(options: dict[str, Any]) -> None:
    """Models that would give a wrong gradient rather than none."""
    wrappers = options.get("transformer_options", {}).get("wrappers", {})
    for by_key in wrappers.values():
        for key in by_key:
            lowered = str(key).lower()
            if "easycache" in lowered or "lazycache" in lowered:
                raise ValueError(
                    f"through denoiser: {key} reuses outputs of earlier steps, whose gradient is wrong; remove it, or "
                    "use gradient = at denoised"
                )
            if "compile" in lowered:
                raise ValueError(
                    "through denoiser: a compiled model can't be differentiated here; remove the compile node, or use "
                    "gradient = at denoised"
                )
