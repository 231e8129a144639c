"""Where the host's own nodes leave the paper: both numbers. ComfyUI 0.30, comfy_extras."""

import numpy as np
import pytest
import torch
from cfg_formulas import perp_negative, projected, rescaled, zero_star
from cfg_worlds import SCALE, SHAPE, largest_error, plain, world

from pack.guidance.cfg import combine
from pack.guidance.cfg_branches import PerpNeg, ZeroStar
from pack.guidance.cfg_direction import Cap, Momentum, Parallel
from pack.guidance.cfg_result import Rescale


def host_apg(cond, uncond, scale, eta):
    """nodes_apg.py, APG, norm_threshold 0 and momentum 0; its CFG afterwards included."""
    guidance = cond - uncond
    unit = torch.nn.functional.normalize(cond, dim=[-1, -2, -3])
    parallel = (guidance * unit).sum(dim=[-1, -2, -3], keepdim=True) * unit
    modified = (uncond + guidance - parallel + eta * parallel) + (cond - uncond) / scale
    return uncond + (modified - uncond) * scale


def host_zero_star(x, cond, uncond, scale):
    """nodes_cfg.py, CFGZeroStar."""
    v_c, v_u = (x - cond).flatten(1), (x - uncond).flatten(1)
    alpha = ((v_c * v_u).sum(1, keepdim=True) / ((v_u**2).sum(1, keepdim=True) + 1e-8)).view(-1, 1, 1, 1)
    return plain(uncond, cond, scale) + uncond * (alpha - 1.0) + scale * uncond * (1.0 - alpha)


def host_perp_neg(pos, neg, empty, neg_scale, scale):
    """nodes_perpneg.py, PerpNegGuider: one dot product for the whole batch."""
    pos, neg = pos - empty, neg - empty
    perp = neg - ((pos * neg).sum() / (torch.norm(pos) ** 2)) * pos
    return empty + scale * (pos - perp * neg_scale)


def host_rescale(x, cond, uncond, sigma, scale, phi):
    """nodes_model_advanced.py, RescaleCFG: the formula of v models, whatever the model."""
    sigma = sigma.view(-1, 1, 1, 1)
    shrunk = x / (sigma * sigma + 1.0)
    v_c, v_u = (((shrunk - part) * (sigma**2 + 1.0) ** 0.5) / sigma for part in (cond, uncond))
    guided = v_u + scale * (v_c - v_u)
    rescaled_v = guided * (v_c.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True))
    return shrunk - (phi * rescaled_v + (1 - phi) * guided) * sigma / (sigma * sigma + 1.0) ** 0.5


def of_paper(step, reference):
    return torch.from_numpy(np.stack([reference(sample, {}) for sample in step.samples]))


def test_apg_off_is_cfg_here_and_cfg_at_scale_plus_one_in_the_host():
    step = world("eps", 3)
    ours = combine(step.mix(), [Parallel(1.0), Cap(Cap.NONE), Momentum(0.0)], {})
    host = host_apg(step.cond, step.uncond, SCALE, 1.0)
    assert torch.equal(ours, plain(step.uncond, step.cond, SCALE))
    assert largest_error(host, plain(step.uncond, step.cond, SCALE + 1)) < 1e-12
    assert largest_error(host, ours) > 0.01


def test_apg_is_the_papers_here_and_one_scale_too_strong_in_the_host():
    step = world("eps", 3)
    ours = combine(step.mix(), [Parallel(0.0)], {})
    host = host_apg(step.cond, step.uncond, SCALE, 0.0)
    assert largest_error(ours, of_paper(step, projected(0.0, 1e9, 0.0))) < 1e-12
    assert largest_error(host, combine(step.mix(scale=SCALE + 1), [Parallel(0.0)], {})) < 1e-12
    assert largest_error(host, ours) > 0.01


def test_zero_star_is_the_papers_here_and_lacks_a_term_of_x_in_the_host():
    """The host scales the negative's clean estimate instead of its velocity: (1 - k) (1 - scale) x is missing."""
    step = world("flow", 3)
    paper = of_paper(step, zero_star(1.0))
    ours = combine(step.mix(), [ZeroStar()], {})
    host = host_zero_star(step.x, step.cond, step.uncond, SCALE)
    assert largest_error(ours, paper) < 1e-12
    assert largest_error(host, paper) > 0.01
    for k, s in enumerate(step.samples):
        v_c, v_u = s.x - s.cond, s.x - s.uncond
        fit = (v_c * v_u).sum() / (v_u**2).sum()
        missing = torch.from_numpy((1 - fit) * (1 - SCALE) * s.x)
        assert largest_error((host[k] + missing)[None], paper[k : k + 1]) < 1e-7


def test_perp_neg_is_the_papers_here_and_depends_on_the_batch_in_the_host():
    step = world("eps", 3)
    paper = of_paper(step, perp_negative(1.0, 1.0))
    ours = combine(step.mix(negative_scale=-SCALE), [PerpNeg()], {})
    host = host_perp_neg(step.cond, step.negative, step.uncond, 1.0, SCALE)
    assert largest_error(ours, paper) < 1e-12
    assert largest_error(host, paper) > 1e-3
    for k in range(SHAPE[0]):
        rows = slice(k, k + 1)
        alone = host_perp_neg(step.cond[rows], step.negative[rows], step.uncond[rows], 1.0, SCALE)
        assert largest_error(alone, paper[rows]) < 1e-12


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_rescaling_is_the_papers_here_and_of_no_output_of_the_model_in_the_host(kind):
    step = world(kind, 3)
    paper = of_paper(step, rescaled(0.7))
    ours = combine(step.mix(), [Rescale(0.7)], {})
    host = host_rescale(step.x, step.cond, step.uncond, step.sigma, SCALE, 0.7)
    assert largest_error(ours, paper) < 1e-12
    assert largest_error(host, paper) > 0.01


def test_rescaling_a_v_model_agrees_with_the_host():
    step = world("v", 3)
    host = host_rescale(step.x, step.cond, step.uncond, step.sigma, SCALE, 0.7)
    assert largest_error(combine(step.mix(), [Rescale(0.7)], {}), host) < 1e-12
