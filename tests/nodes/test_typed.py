"""What is typed into a node is checked before anything runs, as far as the text alone tells."""

import pytest

pytestmark = pytest.mark.host
TYPED = [
    ("Guidance_ScaleValues", "values", "1, 2", "1, two", "numbers between commas are needed"),
    ("Guidance_CLIPScore", "text", "a star", " \n ", "it is empty"),
    ("Guidance_ZeroShotClassify", "labels", "star\nring", "star\nring\nstar", "'star' stands there twice"),
    (
        "Guidance_SaveHSpaceDirection",
        "filename_prefix",
        "mine/smile",
        "../../away",
        "'../../away' can't be a file's name",
    ),
    ("Guidance_SaveSemanticDirection", "filename_prefix", "smile", "a\\b", "'a\\\\b' can't be a file's name"),
]


@pytest.mark.parametrize("node_id, name, good, bad, words", TYPED, ids=[row[0] for row in TYPED])
def test_a_text_that_can_not_work_is_refused_before_a_run_and_the_answer_comes_first(
    pack_nodes, node_id, name, good, bad, words
):
    validate = pack_nodes[node_id].validate_inputs
    assert validate(**{name: bad}).startswith(words)
    assert validate(**{name: good}) is True
    assert validate() is True  # it comes from another node
