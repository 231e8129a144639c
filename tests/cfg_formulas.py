"""The papers' formulas of CFG, written out in numpy for one sample at a time."""

import numpy as np
import torch
from cfg_worlds import SCALE

from pack.guidance.cfg_branches import MagnitudeAware, PerpNeg, Tangential, ZeroStar
from pack.guidance.cfg_direction import Bands, Cap, Momentum, Parallel
from pack.guidance.cfg_result import DynamicThreshold, History, MimicThreshold, Rescale

# The papers' formulas: a sample and what is known of its run -> D.


def rescaled(phi):
    """Lin et al. 2023, eq. 15 and 16, on the network's output."""

    def reference(s, past):
        cond, uncond = s.output(s.cond), s.output(s.uncond)
        guided = uncond + s.scale * (cond - uncond)
        return s.denoised(phi * guided * cond.std(ddof=1) / guided.std(ddof=1) + (1 - phi) * guided)

    return reference


def dynamic(percentile, cap=None):
    """Saharia et al. 2022, sec. 2.3: percentile of |x0|, by linear interpolation; the cap is DeepFloyd IF's."""

    def reference(s, past):
        values = np.sort(np.abs(s.cfg).ravel())
        place = percentile * (len(values) - 1)
        low, share = int(place), place - int(place)
        limit = values[low] * (1 - share) + values[min(low + 1, len(values) - 1)] * share
        limit = max(1.0, limit) if cap is None else min(max(1.0, limit), cap)
        return np.clip(s.cfg, -limit, limit) / limit

    return reference


def mimicked(mimic_scale, percentile, phi):
    """sd-dynamic-thresholding: separate channels, startpoint MEAN, variability AD."""

    def reference(s, past):
        found = s.cfg.copy()
        mimic = s.uncond + mimic_scale * (s.cond - s.uncond)
        for channel in range(len(found)):
            mean = s.cfg[channel].mean()
            centred = s.cfg[channel] - mean
            goal = np.abs(mimic[channel] - mimic[channel].mean()).max()
            limit = max(goal, np.quantile(np.abs(centred), percentile))
            limited = np.clip(centred, -limit, limit) / limit * goal + mean
            found[channel] = phi * limited + (1 - phi) * s.cfg[channel]
        return found

    return reference


def projected(beta, rms, eta):
    """APG (Sadat et al. 2024), algorithm 1, with its r = rms sqrt(n)."""

    def reference(s, past):
        difference = s.cond - s.uncond
        if "average" in past:
            difference = difference + beta * past["average"]
        past["average"] = difference
        length = np.sqrt((difference**2).sum())
        difference = difference * min(1.0, rms * np.sqrt(difference.size) / length)
        unit = s.cond / np.sqrt((s.cond**2).sum())
        parallel = (difference * unit).sum() * unit
        return s.cond + (s.scale - 1) * (difference - parallel + eta * parallel)

    return reference


def zero_star(strength):
    """Fan et al. 2025, eq. 7, on velocities: k v_u + scale (v_c - k v_u); at strength 1 k is their optimum."""

    def reference(s, past):
        v_c, v_u = s.output(s.cond), s.output(s.uncond)
        k = 1 + strength * ((v_c * v_u).sum() / (v_u**2).sum() - 1)
        return s.denoised(k * v_u + s.scale * (v_c - k * v_u))

    return reference


def tangential(strength):
    """Kwon et al. 2025, algorithm 1: the first right-singular vector of [eps_u; eps_c]."""

    def reference(s, past):
        eps_c, eps_u = (s.x - s.cond) / s.sigma, (s.x - s.uncond) / s.sigma
        rows = torch.from_numpy(np.stack([eps_u.ravel(), eps_c.ravel()]))
        first = torch.linalg.svd(rows, full_matrices=False).Vh[0].numpy().reshape(eps_u.shape)
        damped = strength * (eps_u * first).sum() * first + (1 - strength) * eps_u
        return s.x - s.sigma * (damped + s.scale * (eps_c - damped))

    return reference


def perp_negative(weight, strength):
    """Armandpour et al. 2023, eq. 8: De + w (P - k (N - its part along P))."""

    def reference(s, past):
        wanted, unwanted = s.cond - s.uncond, s.negative - s.uncond
        along = (unwanted * wanted).sum() / (wanted**2).sum() * wanted
        return s.uncond + s.scale * (wanted - weight * (unwanted - strength * along))

    return reference


def magnitude_aware(alpha):
    """MAMBO-G: w' = 1 + (w - 1) exp(-alpha |V_c - V_u| / |V_u|) of the network's output."""

    def reference(s, past):
        cond, uncond = s.output(s.cond), s.output(s.uncond)
        ratio = np.sqrt(((cond - uncond) ** 2).sum()) / np.sqrt((uncond**2).sum())
        return s.denoised(uncond + (1 + (s.scale - 1) * np.exp(-alpha * ratio)) * (cond - uncond))

    return reference


def history(strength, memory):
    """D + m (D - EMA of the past D), the EMA beginning with the first D."""

    def reference(s, past):
        if "mean" not in past:
            past["mean"] = s.cfg
            return s.cfg
        mean = past["mean"]
        past["mean"] = memory * mean + (1 - memory) * s.cfg
        return s.cfg + strength * (s.cfg - mean)

    return reference


def banded(low, high):
    """FDG (Sadat et al. 2025), algorithm 2, two levels: the bands of D_c + (w_band - 1) Delta, put together again."""

    def reference(s, past):
        difference = s.cond - s.uncond
        coarse = np.stack([pyramid_coarse(channel) for channel in difference])
        return s.cond + (s.scale - 1) * (low * coarse + high * (difference - coarse))

    return reference


# Gaussian pyramid as kornia's pyrdown and pyrup, which the paper uses


def blurred(picture):
    """5-tap Gaussian, rows then columns; the border is mirrored without the edge itself."""
    for axis in (0, 1):
        padded = np.pad(picture, [(2, 2) if axis == a else (0, 0) for a in (0, 1)], mode="reflect")
        n = picture.shape[axis]
        parts = [weight * padded.take(range(k, k + n), axis) for k, weight in enumerate((1, 4, 6, 4, 1))]
        picture = sum(parts) / 16
    return picture


def halved(picture):
    """Bilinear at half the size: each number is the mean of four."""
    h, w = picture.shape
    return picture.reshape(h // 2, 2, w // 2, 2).mean((1, 3))


def doubled(picture):
    """Bilinear at twice the size: 3/4 of the nearest and 1/4 of the next, the edge repeated."""
    for axis in (0, 1):
        n = picture.shape[axis]
        near = np.repeat(np.arange(n), 2)
        beside = np.clip(near + np.tile([-1, 1], n), 0, n - 1)
        picture = 0.75 * picture.take(near, axis) + 0.25 * picture.take(beside, axis)
    return picture


def pyramid_coarse(picture):
    return blurred(doubled(halved(blurred(picture))))


# name -> methods, reference, kinds of models, scale of a second, negative condition
CASES = {
    "rescale": ((Rescale(0.7),), rescaled(0.7), ("eps", "v", "flow"), None),
    "rescale fully": ((Rescale(1.0),), rescaled(1.0), ("eps", "v", "flow"), None),
    "dynamic threshold": ((DynamicThreshold(0.995),), dynamic(0.995), ("eps",), None),
    "dynamic threshold, capped": ((DynamicThreshold(0.95, 1.7),), dynamic(0.95, 1.7), ("eps",), None),
    "static threshold": ((DynamicThreshold(0.95, 1.0),), dynamic(0.95, 1.0), ("eps",), None),
    "mimic threshold": ((MimicThreshold(3.0),), mimicked(3.0, 1.0, 1.0), ("eps",), None),
    "mimic threshold, percentile": ((MimicThreshold(2.0, 0.9, 0.6),), mimicked(2.0, 0.9, 0.6), ("eps",), None),
    "APG": ((Momentum(-0.5), Cap(0.06), Parallel(0.0)), projected(-0.5, 0.06, 0.0), ("eps", "flow"), None),
    "APG, half": ((Momentum(-0.75), Cap(0.3), Parallel(0.4)), projected(-0.75, 0.3, 0.4), ("eps",), None),
    "momentum": ((Momentum(0.4),), projected(0.4, 1e9, 1.0), ("eps",), None),
    "cap": ((Cap(0.1),), projected(0.0, 0.1, 1.0), ("eps",), None),
    "parallel": ((Parallel(0.25),), projected(0.0, 1e9, 0.25), ("eps",), None),
    "CFG-Zero*": ((ZeroStar(1.0),), zero_star(1.0), ("flow",), None),
    "CFG-Zero*, half": ((ZeroStar(0.5),), zero_star(0.5), ("flow",), None),
    "TCFG": ((Tangential(1.0),), tangential(1.0), ("eps", "flow"), None),
    "TCFG, half": ((Tangential(0.5),), tangential(0.5), ("eps",), None),
    "perp-neg": ((PerpNeg(1.0),), perp_negative(0.6, 1.0), ("eps", "v", "flow"), -0.6 * SCALE),
    "perp-neg, half": ((PerpNeg(0.5),), perp_negative(1.0, 0.5), ("eps",), -SCALE),
    "plain NOT": ((PerpNeg(0.0),), perp_negative(1.0, 0.0), ("eps",), -SCALE),
    "MAMBO-G": ((MagnitudeAware(8.0),), magnitude_aware(8.0), ("eps", "v", "flow"), None),
    "HiGS": ((History(0.5, 0.6),), history(0.5, 0.6), ("eps",), None),
    "HiGS, strong": ((History(1.75, 0.25),), history(1.75, 0.25), ("flow",), None),
    "FDG": ((Bands(0.45, 1.0),), banded(0.45, 1.0), ("eps", "flow"), None),
}
