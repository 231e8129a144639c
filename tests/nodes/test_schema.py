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


def test_every_input_has_a_tooltip(pack_nodes):
    for node_id, node in pack_nodes.items():
        for entry in node.GET_SCHEMA().inputs:
            template = getattr(entry, "template", None)
            tooltip = entry.tooltip or (template and template.input.tooltip)
            assert tooltip, f"{node_id}.{entry.id}"


def test_every_input_stands_in_the_help_page(pack_nodes):
    for node_id, node in pack_nodes.items():
        page = (ROOT / "web" / "docs" / node_id / "en.md").read_text("utf-8")
        for entry in node.GET_SCHEMA().inputs:
            assert f"`{entry.id}`" in page, f"{node_id}.{entry.id}"
