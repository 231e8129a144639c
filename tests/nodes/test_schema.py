"""The public surface: ids, input order, types and defaults can't change unnoticed, and everything is explained."""

import json
import os

import pytest
from conftest import ROOT

SNAPSHOT = ROOT / "tests" / "nodes" / "schema.json"
pytestmark = pytest.mark.host


def option(value):
    """A choice of a combo, of a dynamic one with the widgets that it brings."""
    return {value.key: [described(entry) for entry in value.inputs]} if hasattr(value, "inputs") else value


def described(entry):
    facts = {"id": entry.id, "type": entry.get_io_type(), "optional": bool(getattr(entry, "optional", False))}
    for field in ("default", "min", "max", "options", "advanced"):
        value = getattr(entry, field, None)
        if value is not None and not (field == "options" and entry.id.endswith("_name")):
            facts[field] = [option(choice) for choice in value] if field == "options" else value
    return facts


def surface(pack_nodes):
    return {
        node_id: {
            "inputs": [described(entry) for entry in node.GET_SCHEMA().inputs],
            "outputs": [entry.get_io_type() for entry in node.GET_SCHEMA().outputs],
        }
        for node_id, node in sorted(pack_nodes.items())
    }


def test_the_schema_is_the_recorded_one(pack_nodes):
    """After a wanted change, additions only: GUIDANCE_RECORD_SCHEMA=1 python dev.py test tests/nodes/test_schema.py"""
    found = json.loads(json.dumps(surface(pack_nodes)))
    if os.environ.get("GUIDANCE_RECORD_SCHEMA"):
        SNAPSHOT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    assert found == json.loads(SNAPSHOT.read_text("utf-8"))


def test_every_node_has_prefix_category_description_and_help_page(pack_nodes):
    for node_id, node in pack_nodes.items():
        schema = node.GET_SCHEMA()
        assert node_id.startswith("Guidance_")
        assert schema.category.startswith("guidance/")
        assert len(schema.description) > 40
        assert len((ROOT / "web" / "docs" / node_id / "en.md").read_text("utf-8")) > 300, node_id


def explained(entry):
    """An input with what it grows and what its choices bring."""
    template = getattr(entry, "template", None)
    widgets = [widget for choice in getattr(entry, "options", None) or [] for widget in getattr(choice, "inputs", ())]
    return [entry, *([template.input] if template else []), *widgets]


def test_every_input_and_output_has_a_tooltip(pack_nodes):
    for node_id, node in pack_nodes.items():
        schema = node.GET_SCHEMA()
        for part in [*(part for entry in schema.inputs for part in explained(entry)), *schema.outputs]:
            assert part.tooltip, f"{node_id}.{part.id or part.display_name}"


MOST_WIDGETS = 8  # that a person has to look at
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")


def shown(entries):
    """Widgets that a node shows before its advanced inputs are asked for, at the choices that bring most."""
    widgets = [entry for entry in entries if entry.get_io_type() in WIDGETS and not entry.advanced]
    count = len(widgets) + sum(bool(getattr(entry, "control_after_generate", None)) for entry in widgets)
    choices = [entry.options for entry in widgets if entry.get_io_type() == WIDGETS[-1]]
    return count + sum(max(shown(choice.inputs) for choice in options) for options in choices)


def test_no_node_shows_more_widgets_than_a_person_reads(pack_nodes):
    """The editor folds advanced inputs away; what the paper's recipe needs is among the first."""
    counts = {node_id: shown(node.GET_SCHEMA().inputs) for node_id, node in pack_nodes.items()}
    assert {node_id: count for node_id, count in counts.items() if count > MOST_WIDGETS} == {}
    assert max(counts.values()) == MOST_WIDGETS


SOUGHT = {
    "Guidance_CFGPatch": "dynamic thresholding, burnt, saturation, 动态阈值, 过饱和, 饱和度",
    "Guidance_MoveSemantic": "smile, age, attribute, concept slider, 微笑, 年龄, 属性, 滑块",
    "Guidance_HSpaceEdit": "smile, age, attribute, concept slider, 微笑, 年龄, 属性, 概念滑块",
    "Guidance_StyleGuide": "style reference, reference image, IPAdapter, 风格, 参考图",
    "Guidance_ContentGuide": "reference image, IPAdapter, 参考图",
    "Guidance_PaletteGuide": "palette transfer, 配色, 色彩迁移",
}


def test_every_node_is_found_by_other_words_in_both_languages(pack_nodes):
    for node_id, node in pack_nodes.items():
        aliases = node.GET_SCHEMA().search_aliases
        assert len(aliases) >= 2, node_id
        assert any(alias.isascii() for alias in aliases) and not all(alias.isascii() for alias in aliases), node_id
        for word in SOUGHT.get(node_id, "").split(", "):
            assert word in " ".join(aliases), f"{node_id}: {word}"


def test_what_the_editor_does_with_seeds_of_searches_and_trainings(pack_nodes):
    """Another seed would search or train anew at every run; where pictures are drawn it is wanted."""
    after = {
        node_id: getattr(entry, "control_after_generate", None)
        for node_id, node in pack_nodes.items()
        for entry in node.GET_SCHEMA().inputs
        if entry.id == "seed"
    }
    assert after["Guidance_DiscoverHSpace"] == "fixed" and after["Guidance_TrainHSpaceDirection"] is None
    assert after["Guidance_ClassifierGuidedSampler"] is True


def test_every_input_stands_in_the_help_page(pack_nodes):
    for node_id, node in pack_nodes.items():
        page = (ROOT / "web" / "docs" / node_id / "en.md").read_text("utf-8")
        for entry in node.GET_SCHEMA().inputs:
            assert f"`{entry.id}`" in page, f"{node_id}.{entry.id}"
