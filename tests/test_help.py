"""Help pages: one in each language for each node, readable in a panel of 300 pixels, and every link leads somewhere."""

import json
import os
import re
import shutil

import pytest
from conftest import ROOT

DOCS = ROOT / "web" / "docs"
SURFACE = json.loads((ROOT / "tests" / "nodes" / "schema.json").read_text("utf-8"))
NODES = sorted(SURFACE)
LEADS = {"en": ("What", "When", "Take first"), "zh": ("是什么", "何时用", "先这样")}
COLONS = {"en": ":", "zh": "："}
LAST = {  # sections with formula, source and host: behind all others
    "en": "The formula, The rule, How, Source, Who honours what, Where the host's nodes differ from their papers",
    "zh": "公式, 规则, 做法, 出处, 谁理会什么, ComfyUI 自带节点与其论文的差别",
}
OWN = "https://github.com/diffusion-guidance/diffusion-guidance/blob/main/"
EVERY = pytest.mark.parametrize("node", NODES)
BOTH = pytest.mark.parametrize("language", LEADS)


def page(node, language):
    return (DOCS / node / f"{language}.md").read_text("utf-8")


@EVERY
def test_other_languages_get_the_english_page(node):
    """The frontend asks for NODE/LANGUAGE.md, then for NODE.md."""
    english, fallback = DOCS / node / "en.md", DOCS / f"{node}.md"
    if os.environ.get("GUIDANCE_RECORD_LOCALES"):
        shutil.copyfile(english, fallback)
    assert fallback.read_bytes() == english.read_bytes(), "write it anew: python dev.py locales"


def test_no_page_is_left_of_a_node_that_is_gone():
    found = {path.name.removesuffix(".md") for path in DOCS.iterdir()} - {"pictures"}
    assert found == set(NODES)


@BOTH
@EVERY
def test_a_page_begins_with_a_picture_and_three_lines(node, language):
    title, picture, lines = page(node, language).split("\n\n")[:3]
    assert re.fullmatch("# .+", title)
    assert re.fullmatch(r"!\[.+\]\(pictures/\w+\.jpg\)", picture)
    marks = [line.split("**")[1] for line in lines.splitlines()]
    assert marks == [lead + COLONS[language] for lead in LEADS[language]]


@BOTH
@EVERY
def test_tables_have_at_most_two_columns(node, language):
    rows = [row for row in page(node, language).splitlines() if row.startswith("|")]
    assert [row for row in rows if len(re.split(r"(?<!\\)\|", row)) > 4] == []


@BOTH
@EVERY
def test_formula_source_and_host_come_last(node, language):
    last = LAST[language].split(", ")
    places = [title in last for title in re.findall(r"(?m)^## (.+)$", page(node, language))]
    assert places == sorted(places)


@BOTH
@EVERY
def test_every_input_is_explained(node, language):
    text = page(node, language)
    assert [entry["id"] for entry in SURFACE[node]["inputs"] if f"`{entry['id']}`" not in text] == []


@EVERY
def test_chinese_is_as_long_as_english_and_names_the_same_papers(node):
    """A character is about half a word; a page of a third is an excerpt."""
    english, chinese = page(node, "en"), page(node, "zh")
    assert len(chinese) > len(english) / 5
    assert papers(chinese) == papers(english)


def papers(text):
    return set(re.findall(r"\d{4}\.\d{4,5}(?=\))", text))


def links(text):
    return re.findall(r"\]\(([^)\s]+)\)", text)


def leads_nowhere(target, folder):
    """A link of our own that no file stands behind."""
    if target.startswith(OWN):
        return not (ROOT / target.removeprefix(OWN).split("#")[0]).exists()
    if re.match("https?:|#", target):
        return False
    return not (folder / target.split("#")[0]).exists()


@BOTH
@EVERY
def test_every_link_of_a_page_leads_somewhere(node, language):
    """The frontend takes relative ones from web/docs, whatever folder the page lies in."""
    assert [target for target in links(page(node, language)) if leads_nowhere(target, DOCS)] == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_every_link_of_the_documents_leads_somewhere(path):
    assert [target for target in links(path.read_text("utf-8")) if leads_nowhere(target, path.parent)] == []


@BOTH
@EVERY
def test_every_template_that_a_page_names_exists(node, language):
    named = re.findall(r"(?m)^(?:Workflows?: |模板：)(.*(?:\n.+)*)", page(node, language))
    templates = {name for line in named for name in re.findall(r"\*([^*]+)\*", line)} - {"sd15"}
    assert [name for name in templates if not (ROOT / "example_workflows" / f"{name}.json").exists()] == []
