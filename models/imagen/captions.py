"""Captions as IF's training cleaned them (DeepFloyd IF): web addresses, mark-up, numbers of articles and shop talk out.

The rules stand in the published order; one that is written oddly stays so, because the network learned from what came
out.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import unquote_plus

ENDS = "com|co|ru|net|org|edu|gov|it"
FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
DASHES = "\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
DASHES += "\ufe31\ufe32\ufe58\ufe63\uff0d"


def address(scheme: str) -> str:
    """A web address, with its scheme or known by how its host ends."""
    return rf"\b(?:{scheme}:(?:/{{1,3}}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:{ENDS})[\w/-]*\b/?(?!@))"


Rule = tuple[str, str]  # what is looked for, what takes its place
ADDRESSES: tuple[Rule, ...] = (("<person>", "person"), (address("https?"), ""), (address("www"), ""))
LETTERS: tuple[Rule, ...] = (
    (r"@\w+\b", ""),  # names of users
    *((f"[{first}-{last}]+", "") for first, last in (("\u31c0", "\u4dbf"), ("\u4dc0", "\u4dff"), ("\u4e00", "\u9fff"))),
    (f"[{DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # addresses of machines
    (r"\d:\d\d\s+$", ""),  # times at the end
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{FILES})", ""),
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
JOINTS = "[-_]"  # more than three of them were a title in one word
WORDS: tuple[Rule, ...] = (
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{FILES})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes; the second x is Cyrillic
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


class Text(HTMLParser):
    """What stands between the tags of mark-up."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def without_tags(text: str) -> str:
    parser = Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


def rewritten(text: str, rules: tuple[Rule, ...]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def once(caption: str) -> str:
    text = rewritten(unquote_plus(caption).strip().lower(), ADDRESSES)
    text = rewritten(without_tags(text), LETTERS)
    if len(re.findall(JOINTS, text)) > 3:
        text = re.sub(JOINTS, " ", text)
    from open_clip.tokenizer import basic_clean  # here: open_clip is slow to import

    return rewritten(basic_clean(text), WORDS).strip()


def cleaned(caption: str) -> str:
    """The caption that T5 reads: cleaned twice, as published. Empty where nothing remains, as of Chinese."""
    return once(once(caption))
