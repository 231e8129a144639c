"""The report's plots and words: round ticks within the range, colours that all people tell apart, verdicts."""

import itertools

import pytest
import torch

pytestmark = pytest.mark.host
# Machado, Oliveira & Fernandes 2009, table of severity 1.0, on linear RGB
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.fixture
def plot(pack_nodes):
    from pack.nodes import plot

    return plot


@pytest.mark.parametrize("low, high", [(0, 1), (-0.05, 1.05), (3.2, 3.9), (-7e-5, 2e-4), (120, 98000), (0.31, 0.312)])
def test_ticks_are_round_within_the_range_and_few(plot, low, high):
    found = plot.ticks(low, high)
    assert 4 <= len(found) <= 9 and low <= found[0] and found[-1] <= high
    steps = {f"{b - a:.6e}" for a, b in itertools.pairwise(found)}
    assert len(steps) == 1 and steps.pop()[0] in "125"


@pytest.mark.parametrize("low, high", [(-3.2, 1.4), (-0.9, 0.2), (0.31, 0.36), (-12.0, 9.0), (2.0, 2.31)])
def test_ticks_of_factors_are_logarithms_within_the_range(plot, low, high):
    found = plot.factors(low, high)
    assert 1 <= len(found) <= 9 and all(low <= tick <= high for tick in found)


def linear(colour):
    values = torch.tensor([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE 1976 L*a*b* of linear RGB, white D65."""
    to_xyz = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = (to_xyz @ rgb.clamp(0, 1) / torch.tensor([0.9505, 1.0, 1.089])).tolist()
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return torch.tensor([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


@pytest.mark.parametrize("kind", [None, *BLINDNESS])
def test_people_of_every_sight_tell_the_colours_apart(plot, kind):
    """Differences of less than about 2.3 can't be seen (Mahy et al. 1994); lines this thin want several times that."""
    seen = [linear(colour) for colour in plot.COLOURS]
    seen = seen if kind is None else [torch.tensor(BLINDNESS[kind]) @ rgb for rgb in seen]
    assert min(float((lab(a) - lab(b)).norm()) for a, b in itertools.combinations(seen, 2)) > 10


def row(loss, push, capped=0.0):
    return {"loss": loss, "lambda": push, "capped": capped, "grad_norm": 1.0, "dropped": 0.0}


@pytest.mark.parametrize(
    "rows, said",
    [
        (
            [row(2.0, 0.02), row(1.99, 0.04)],
            r"style hardly acts \(lambda at most 0.04, loss 100 % .*: raise its weight",
        ),
        ([row(2.0, 0.5), row(1.0, 0.4)], r"style acts \(lambda up to 0.5, loss 50 % of its start\)"),
        ([row(2.0, 0.5), row(3.0, 0.5)], r"style acts \(lambda up to 0.5, loss 150 % of its start\)"),
        (
            [row(2.0, 3.0, 1.0), row(1.0, 3.0, 0.8)],
            "style is cut in 90 % of its looks .loss 50 .*: lower its weight, or ",
        ),
        (
            [row(2.0, 3.0, 1.0), row(2.0, 3.0, 1.0)],
            "style is cut in 100 % .* doesn't arrive .*: another encoder or more",
        ),
        ([row(-2.0, 0.5), row(-3.0, 0.5)], ".*loss 50 % of its start.*"),
        ([row(0.0, 0.5), row(-0.5, 0.5)], ".*loss 50 % of its start.*"),
        ([row(None, None, None)], "style: no number of it is finite; use another encoder"),
    ],
)
def test_the_verdict_says_what_to_do(pack_nodes, rows, said):
    import re

    from pack.nodes.host.guides.report import verdict

    assert re.fullmatch(said + ".*", verdict("style", rows))


def test_losses_are_drawn_from_1_and_gradients_by_factors(pack_nodes):
    from pack.nodes.apply_guides import panels

    rows = [{**row(4.0, 0.1), "progress": 0.0}, {**row(1.0, 0.1), "progress": 0.5}]
    loss, gradient, *_ = panels({"style": rows})
    assert loss.lines["style"] == [(0.0, 1.0), (0.5, 0.25)]
    assert gradient.log and not loss.log


def test_what_is_not_above_zero_has_no_place_on_an_axis_of_factors(plot):
    lines = {"a": [(0.0, 0.0), (0.5, 10.0), (1.0, 1000.0)], "b": [(0.0, -1.0)]}
    image = plot.plot([plot.Panel("t", "x", lines, log=True)], ["a verdict"])
    assert image.shape == (1, 300 + plot.HEADLINE + 6, 440, 3) and torch.isfinite(image).all()
