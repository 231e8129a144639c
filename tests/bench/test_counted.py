"""Operations and synchronisations of a few lines whose counts are known."""

import pytest
import torch
from torch.nn.functional import linear

from bench.counted import Counted


def counted(call):
    with Counted() as found:
        call()
    return found.operations.total(), found.waits.total()


X = torch.arange(6.0).reshape(2, 3)
CASES = {
    "a sum and a product": (lambda: (X + 1) * 2, (2, 0)),
    "views": (lambda: X.T[None, :1].flatten(1).detach().expand(4, -1).split(2), (0, 0)),
    "a reshape that copies": (lambda: X.T.reshape(6), (1, 0)),
    "a change of type": (lambda: X.double(), (1, 0)),
    "a type that it has": (lambda: X.float().contiguous().to("cpu"), (0, 0)),
    "writing": (lambda: torch.empty(2).zero_(), (1, 0)),
    "a number": (lambda: float(X[0, 0]), (1, 1)),
    "a truth": (lambda: bool(X[0, 0] > 0), (2, 1)),
    "places of a mask": (lambda: X[X > 2], (2, 1)),
    "places by number": (lambda: X[torch.tensor([0, 0])], (1, 0)),
    "numbers that are the same": (lambda: torch.equal(X, X), (1, 1)),
    "to another device": (lambda: X.to("meta"), (1, 1)),
    "a choice without a look": (lambda: torch.where(X > 2, X, 0), (3, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_line_asks_for(name):
    call, expected = CASES[name]
    assert counted(call) == expected
    with torch.inference_mode():
        assert counted(call) == expected


def test_the_backward_pass_is_counted():
    x = torch.ones(2, 3, requires_grad=True)
    with Counted() as found:
        loss = linear(x, torch.ones(4, 3)).sum()
        (grad,) = torch.autograd.grad(loss, x)
    assert grad.shape == x.shape
    assert found.operations["mm"] == 2


def test_places_are_lines_of_a_folder():
    with Counted(__file__) as found:
        X + 1
    (((line, name), count),) = found.places.items()
    assert (name, count) == ("add", 1) and int(line.removeprefix(":")) > 0
