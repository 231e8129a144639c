"""Which pairs a costly score looks at, the order that follows, and Recall@K as published."""

import golden_files
import torch

from pack.guidance.match_scores import UNSEEN, asked, order, ranks, recalls


def test_the_costly_score_looks_at_the_best_pictures_of_each_sentence():
    first = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.3, 0.3]])
    rows, columns = asked(first, 2)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(1, 0), (2, 0), (0, 1), (2, 1)}
    assert len(asked(first, 10)[0]) == 6 and len(asked(first, 0)[0]) == 0


def test_pictures_that_were_looked_at_come_first_and_the_rest_by_the_cheap_score():
    first = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.2])
    whole = torch.tensor([0.1, 0.5, 0.5, UNSEEN, UNSEEN])
    assert order(first, whole) == [1, 2, 0, 4, 3]
    assert order(first, torch.full((5,), UNSEEN)) == [0, 1, 2, 4, 3]


def test_recalls_are_saems():
    _, golden = golden_files.load("mmca_self_attention_saem")
    scores = golden["recall.similarities"]
    right = torch.arange(35)[None] // 5 == torch.arange(7)[:, None]
    for name, found in (
        ("image_to_text", ranks(scores, right)),
        ("text_to_image", ranks(scores.T, right.T)),
    ):
        torch.testing.assert_close(
            torch.tensor(list(recalls(found).values()), dtype=torch.float64),
            golden[f"recall.{name}"],
            rtol=1e-13,
            atol=0,
        )
