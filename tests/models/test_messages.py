"""Texts of files inside messages neither command a terminal nor fill a screen."""

import pytest

from pack.models.messages import LONGEST, plain
from pack.models.state_dict import CheckpointError

TEXTS = {
    "a line\nand another": "a line\\nand another",
    "\x1b[31mred": "\\x1b[31mred",
    "from \u202e right": "from \\u202e right",
    "half \ud800": "half \\ud800",
    "Ampère 日本 \U0001f600": "Ampère 日本 \U0001f600",
    "k" * 255: "k" * 255,
    "key " + "k" * 200_000: "key " + "k" * 100 + "... (200000 letters)",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_one_harmless_line(text):
    assert plain(text) == TEXTS[text] == plain(plain(text))
    assert str(CheckpointError(text)) == TEXTS[text]


def test_a_long_message_keeps_its_beginning_and_its_end():
    message = plain("begin " + "many words " * 50_000 + "end")
    assert len(message) <= LONGEST and message.startswith("begin ") and message.endswith("end")
    assert plain(message) == message
