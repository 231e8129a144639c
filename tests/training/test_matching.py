"""The loss of the matcher against its closed form and the published one, and what sentences are true of."""

import math

import golden_files
import pytest
import torch

from training.matching import ASKED, NEVER, asked, contrast, hinge, of_twins, true_sentences
from training.two_shapes import (
    RELATIONS,
    WORDS,
    Sentences,
    draw_pairs,
    fits,
    joined,
    moved,
    render_pairs,
    sentences,
    swapped,
)

SCORES = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.5, 0.6], [0.3, 0.0, 0.7]])
OWN = torch.eye(3, dtype=torch.bool)


def test_the_hardest_negative_of_each_picture_and_each_sentence_is_counted():
    rows = [0.2 - 0.9 + 0.8, 0.2 - 0.5 + 0.6, 0.0]  # the third: 0.2 - 0.7 + 0.3 is below 0
    columns = [0.0, 0.2 - 0.5 + 0.8, 0.2 - 0.7 + 0.6]
    assert hinge(SCORES, OWN).item() == pytest.approx((sum(rows) + sum(columns)) / 3, rel=1e-6)


def test_all_negatives_are_counted_by_their_mean():
    rows = [(0.1 + 0.0) / 2, (0.0 + 0.3) / 2, 0.0]
    columns = [0.0, (0.5 + 0.0) / 2, (0.0 + 0.1) / 2]
    found = hinge(SCORES, OWN, hardest=0.0).item()
    assert found == pytest.approx((sum(rows) + sum(columns)) / 3, rel=1e-6)
    assert hinge(SCORES, OWN, 0.5).item() == pytest.approx((found + hinge(SCORES, OWN).item()) / 2, rel=1e-6)


def test_what_is_true_by_chance_and_what_was_not_looked_at_is_no_negative():
    true = OWN.clone()
    true[0, 1] = True
    rows, columns = [0.0, 0.2 - 0.5 + 0.6, 0.0], [0.0, 0.0, 0.2 - 0.7 + 0.6]
    expected = pytest.approx((sum(rows) + sum(columns)) / 3, rel=1e-6)
    assert hinge(SCORES, true).item() == expected
    scores = SCORES.clone().requires_grad_()
    value = hinge(scores.masked_fill(true & ~OWN, NEVER), OWN)
    value.backward()
    assert value.item() == expected and scores.grad.isfinite().all()


def test_the_published_loss_is_n_times_ours():
    """SAEM adds up what is a mean here; its sum over all negatives is n - 1 times our mean."""
    arguments, golden = golden_files.load("mmca_self_attention_saem")
    scores = golden["image_code"] @ golden["loss.text_code"].T
    n, own = len(scores), torch.eye(len(scores), dtype=torch.bool)
    for name, hardest, count in (("hardest", 1.0, n), ("sum", 0.0, n * (n - 1))):
        found = hinge(scores, own, hardest, arguments["margin"]) * count
        torch.testing.assert_close(found, golden[f"loss.{name}"][0], rtol=1e-5, atol=0)


def test_the_loss_of_the_reading_is_n_times_ours():
    arguments, golden = golden_files.load("mmca_reference_not_published")
    scores = golden["similarity"][:, : len(golden["similarity"])]
    own = torch.eye(len(scores), dtype=torch.bool)
    found = hinge(scores, own, margin=arguments["margin"]) * len(scores)
    torch.testing.assert_close(found, golden["loss"][0], rtol=1e-12, atol=0)


@pytest.fixture(scope="module")
def pairs():
    return draw_pairs(200, torch.Generator().manual_seed(0))


def everything(pairs):
    true = torch.ones(len(pairs), dtype=torch.bool)
    return sentences(
        pairs, true[:, None, None].expand(-1, 2, 3), true, ~true, torch.zeros(len(pairs), dtype=torch.long)
    )


def test_both_shapes_lie_apart_inside_the_picture_as_the_relation_says(pairs):
    _, masks = render_pairs(pairs)
    assert masks.shape == (200, 2, 32, 32) and masks.prod(1).max() == 0 and masks.sum((2, 3)).min() > 20
    assert not masks[..., 0].any() or masks[..., 0].max() < 1
    axis = torch.arange(32.0)
    x, y = ((masks.sum(dim) * axis).sum(2) / masks.sum((2, 3)) for dim in (2, 3))
    names = [RELATIONS[index] for index in pairs.relation.tolist()]
    for name, (x0, x1), (y0, y1) in zip(names, x.tolist(), y.tolist(), strict=True):
        holds = {"left of": x0 < x1, "right of": x0 > x1, "above": y0 < y1, "below": y0 > y1}
        assert holds[name]


def test_the_second_shape_is_painted_as_it_would_be_alone(pairs):
    from training.scenes import render

    image, masks = render_pairs(pairs)
    alone = render(pairs.second).image
    inside = (masks[:, 1:] > 0).expand_as(image)
    assert image[inside].equal(alone[inside])


def test_a_true_sentence_fits_its_scene_and_its_twins_it_does_not(pairs):
    said = everything(pairs)
    assert fits(pairs, said).diagonal().all()
    assert not fits(swapped(pairs, "colour"), said).diagonal().any()
    assert not fits(moved(pairs), said).diagonal().any()
    differ = pairs.first.texture != pairs.second.texture
    assert fits(swapped(pairs, "texture"), said).diagonal().equal(~differ)


def test_a_sentence_may_begin_with_either_shape(pairs):
    said = everything(pairs)
    turned = Sentences(said.labels.flip(1), said.relation ^ 1, said.article)
    assert fits(pairs, turned).equal(fits(pairs, said))


def test_what_a_sentence_leaves_out_may_be_anything(pairs):
    said = true_sentences(pairs, torch.Generator().manual_seed(1))
    assert fits(pairs, said).diagonal().all()
    assert fits(pairs, said).sum() > fits(pairs, everything(pairs)).sum()


def test_sentences_are_the_words_of_what_they_say():
    said = Sentences(
        torch.tensor([[[3, 0, -1], [0, 4, 2]], [[3, 0, 1], [-1, -1, -1]]]), torch.tensor([0, -1]), torch.tensor([0, 2])
    )
    assert said.lines() == ["a red star left of a dotted blue circle", "striped red star"]
    lines = true_sentences(draw_pairs(300, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)).lines()
    assert {word for line in lines for word in line.split()} == set(WORDS)


def test_joined_batches_are_one_after_the_other(pairs):
    both = joined(pairs, moved(pairs))
    assert both.labels().equal(torch.cat([pairs.labels(), pairs.labels()]))
    assert both.rows(torch.arange(200, 400)).relation.equal(pairs.relation ^ 1)


def test_the_contrast_moves_scores_that_the_hinge_loss_would_leave_alike():
    """Where all scores are the same the hardest negatives pull as hard as the own pairs: the loss stays at 2 m."""
    scores = torch.full((4, 4), 0.9, requires_grad=True)
    own = torch.eye(4, dtype=torch.bool)
    assert hinge(scores, own).item() == pytest.approx(0.4, rel=1e-6)
    value = contrast(scores, own)
    value.backward()
    assert value.item() == pytest.approx(math.log(4), rel=1e-6)
    assert (scores.grad.diagonal() < 0).all() and (scores.grad[~own] > 0).all()


def test_the_cross_attention_is_asked_about_own_twin_hardest_and_others_by_chance():
    generator = torch.Generator().manual_seed(0)
    negatives = torch.rand(20, 20, generator=generator)
    rows, columns = asked(negatives, generator)
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == len(rows) == 20 * ASKED
    seen = torch.zeros(20, 20, dtype=torch.bool)
    seen[rows, columns] = True
    every = torch.arange(20)
    assert seen[every, every].all() and seen[every, every.roll(10)].all() and seen[negatives.argmax(0), every].all()
    assert (seen.sum(0) == ASKED).all()
    again = torch.zeros_like(seen)
    again[asked(negatives, generator)] = True
    assert not again.equal(seen)


def test_the_share_of_twins_leaves_out_sentences_that_are_true_of_both():
    scores = torch.tensor([[0.9, 0.0, 0.8, 0.0], [0.0, 0.1, 0.0, 0.2], [0.2, 0.0, 0.5, 0.0], [0.0, 0.4, 0.0, 0.9]])
    own = torch.eye(4, dtype=torch.bool)  # sentence 1 prefers its twin, 2 its twin, 0 and 3 their own
    assert of_twins(scores, own).item() == 0.5
    both = own.clone()
    both[3, 1] = True
    assert of_twins(scores, both).item() == pytest.approx(2 / 3)


def test_the_cross_term_learns_where_the_global_term_alone_keeps_the_margin():
    """The hinge loss of the sum of both would be 0 there, and so would its gradient."""
    first, crossed = 0.9 * torch.eye(6), torch.zeros(6, 6, requires_grad=True)
    own = torch.eye(6, dtype=torch.bool)
    assert hinge(first + crossed, own).item() == 0
    alone, both = hinge(crossed, own), hinge(first + crossed, own, margin=0.4)
    assert alone.item() == pytest.approx(0.4) and both.item() <= hinge(first, own).item() + alone.item()
