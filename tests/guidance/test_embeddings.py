"""Between two embeddings: ends to the bit, along the sphere, along a difference of texts."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from pack.guidance.embeddings import BLENDS, lerp, slerp, text_difference

A, B = (torch.randn(24, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
FRACTIONS = torch.linspace(0, 1, 9)


@pytest.mark.parametrize("blend", [lerp, slerp])
def test_both_ends_are_the_embeddings_to_the_bit(blend):
    found = blend(A, 3 * B, FRACTIONS)
    assert found[0].equal(A) and found[-1].equal(3 * B)


def test_slerp_turns_evenly_and_stretches_evenly():
    found = slerp(A, 3 * B, FRACTIONS)
    steps = torch.arccos(cosine_similarity(found[1:], found[:-1]))
    torch.testing.assert_close(steps, steps.mean().expand(8), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.norm(dim=1), torch.lerp(A.norm(), 3 * B.norm(), FRACTIONS))


def test_of_one_direction_slerp_is_lerp():
    assert slerp(A, 2 * A, FRACTIONS).equal(lerp(A, 2 * A, FRACTIONS))
    assert slerp(A, -A, FRACTIONS).isfinite().all()


def test_a_text_difference_turns_towards_it_and_keeps_the_length():
    found = text_difference(A, B, FRACTIONS)
    torch.testing.assert_close(found.norm(dim=1), A.norm().expand(9))
    along = found @ normalize(B, dim=0)
    assert found[0].equal(A) and (along[1:] > along[:-1]).all()


def test_each_is_linear_in_no_batch():
    """Row i is that of its fraction alone."""
    for blend in BLENDS.values():
        assert blend(A, B, FRACTIONS)[3].equal(blend(A, B, FRACTIONS[3:4])[0])
