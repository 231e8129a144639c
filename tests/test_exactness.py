"""The table of what is exact where: every cell's test is there, and every page that should lead to it does."""

import ast
import re

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "exactness.md").read_text("utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("|")][2:]
TESTS = dict(re.findall(r"^(\d+)\. `(\S+)`$", PAGE, re.MULTILINE))
HELPED = ["ApplyGuides", "ClassifierGuide", "TextGuide", "StyleGuide", "ContentGuide", "StructureGuide", "PaletteGuide"]
HELPED += ["CFGPatch", "CFGCombiner", "CFGCondition", "HSpaceEdit", "HSpaceInject", "AsyrpSampler", "DDPMSampler"]
HELPED += ["DDIMSampler", "StochasticEncode", "SemanticEncode", "SampleSemantic"]


@pytest.mark.parametrize("number", TESTS)
def test_the_test_of_a_row_is_there(number):
    path, name = TESTS[number].split("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_has_all_columns_and_tests_and_every_test_a_row():
    columns = {len(row.split("|")) for row in ROWS}
    assert len(columns) == 1
    used = [number for row in ROWS for number in re.findall(r"\d+", row.rsplit("|", 2)[1])]
    assert all(re.findall(r"\d+", row.rsplit("|", 2)[1]) for row in ROWS)
    assert set(used) == set(TESTS)


@pytest.mark.parametrize("node", HELPED)
def test_help_leads_to_the_table(node):
    help_page = (ROOT / "web" / "docs" / f"Guidance_{node}" / "en.md").read_text("utf-8")
    assert "blob/main/docs/exactness.md" in help_page
