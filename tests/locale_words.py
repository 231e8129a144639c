"""What the frontend shows of our nodes, by the keys under which it looks for a translation: `locales/*/*.json`."""

import json

from conftest import ROOT

LOCALES = ROOT / "locales"
FILES = ("main", "nodeDefs")


def read(language, file):
    return json.loads((LOCALES / language / f"{file}.json").read_text("utf-8"))


def english(pack_nodes):
    """{file: words} of the schemas."""
    schemas = {node_id: node.GET_SCHEMA() for node_id, node in sorted(pack_nodes.items())}
    return {
        "main": {"nodeCategories": categories(schemas.values()), "dataTypes": own_types(schemas.values())},
        "nodeDefs": {node_id: words(schema) for node_id, schema in schemas.items()},
    }


def categories(schemas):
    return {part: part for part in sorted({part for schema in schemas for part in schema.category.split("/")})}


def own_types(schemas):
    """Types of our sockets, as in GUIDANCE_GUIDE: guide."""
    sockets = [entry.get_io_type() for schema in schemas for entry in [*schema.inputs, *schema.outputs]]
    types = {name for socket in sockets for name in socket.split(",")}
    return {
        name: name.removeprefix("GUIDANCE_").replace("_", " ").lower() for name in sorted(types) if "GUIDANCE" in name
    }


def words(schema):
    named = {}
    for entry in schema.inputs:
        named |= of_input(entry)
    outputs = {str(k): of_output(output) for k, output in enumerate(schema.outputs)}
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": named,
        **({"outputs": outputs} if outputs else {}),
    }


def of_input(entry):
    """Of an input, of the slots that it grows, and of the widgets that a choice brings."""
    found = {entry.id: {"name": entry.display_name or entry.id, "tooltip": entry.tooltip}}
    if (template := getattr(entry, "template", None)) is not None:
        tooltip = template.input.tooltip
        found |= {f"{entry.id}_{template.prefix}{k}": {"tooltip": tooltip} for k in range(template.max)}
    for choice in getattr(entry, "options", None) or []:
        for widget in getattr(choice, "inputs", ()):
            told = found.setdefault(f"{entry.id}_{widget.id}", {"name": widget.id, "tooltip": ""})
            told["tooltip"] = f"{told['tooltip']} {choice.key}: {widget.tooltip}".strip()
    return found


def of_output(output):
    name = output.display_name or output.get_io_type()
    return {"name": name, "tooltip": output.tooltip}


def keys(tree, path=""):
    """Paths to every text of a tree of words."""
    if isinstance(tree, dict):
        return {found for key, part in tree.items() for found in keys(part, f"{path}/{key}" if path else key)}
    return {path}


def at(tree, path):
    for key in path.split("/"):
        tree = tree[key]
    return tree
