"""Numbers of every node: NaN, infinite ones and those outside a widget's limits are refused, typed or linked."""

import asyncio
import math
import re

import pytest

pytestmark = pytest.mark.host
BAD = ("NaN", "infinity", "-infinity", "below", "above")


def numbers_of(inputs, chosen=(), prefix=""):
    """(name, its input, {name: option} that shows it) of each number, those of dynamic inputs too."""
    from comfy_api.latest import io

    for entry in inputs:
        name = f"{prefix}{entry.id}"
        if isinstance(entry, io.Int.Input | io.Float.Input):
            yield name, entry, dict(chosen)
        elif isinstance(entry, io.DynamicCombo.Input):
            for option in entry.options:
                yield from numbers_of(option.inputs, (*chosen, (name, option.key)), f"{name}.")
        elif isinstance(entry, io.Autogrow.Input):
            yield from numbers_of(entry.template.get_all(), chosen, f"{name}.")


@pytest.fixture(scope="module")
def numbers(pack_nodes):
    return [(node, *found) for node in pack_nodes.values() for found in numbers_of(node.GET_SCHEMA().inputs)]


def bad_value(entry, kind):
    from comfy_api.latest import io

    beyond = {"below": entry.min - 1, "above": entry.max + 1}
    value = beyond[kind] if kind in beyond else float(kind)
    return value if not math.isfinite(value) or isinstance(entry, io.Int.Input) else float(value)


def nested(name, value, chosen):
    """Values as a node gets them: those of a dynamic input under its name."""
    given = {key: {key: option} for key, option in chosen.items()}
    outer, dot, inner = name.partition(".")
    if dot:
        given.setdefault(outer, {})[inner] = value
    else:
        given[name] = value
    return given


def hosts_word(node_id, name, value, chosen):
    """What the host says of a typed value before anything runs: details of its errors."""
    import execution

    import nodes

    prompt = {"1": {"class_type": node_id, "inputs": {**chosen, name: value}}}
    nodes.NODE_CLASS_MAPPINGS[node_id] = hosts_word.classes[node_id]
    _, errors, _ = asyncio.run(execution.validate_inputs("test", prompt, "1", {}))
    return [error for error in errors if error["extra_info"].get("input_name") == name]


def test_there_are_numbers_of_every_kind_and_each_has_limits(numbers):
    assert len(numbers) > 100
    assert any("." in name for _, name, *_ in numbers)
    for node, name, entry, _ in numbers:
        assert entry.min is not None and entry.max is not None and entry.min < entry.max, (node, name)


@pytest.mark.parametrize("kind", BAD)
def test_a_linked_number_that_is_bad_is_refused_in_one_sentence_with_node_and_input(numbers, kind):
    for node, name, entry, chosen in numbers:
        with pytest.raises(ValueError) as caught:
            node.PREPARE_CLASS_CLONE(None).execute(**nested(name, bad_value(entry, kind), chosen))
        schema = node.GET_SCHEMA()
        said = str(caught.value)
        assert said.endswith(f" (input '{name}' of {schema.display_name})") and "\n" not in said


@pytest.mark.parametrize("kind", BAD)
def test_a_typed_number_that_is_bad_is_refused_by_the_host_or_by_the_node(numbers, pack_nodes, kind):
    hosts_word.classes = pack_nodes
    for node, name, entry, chosen in numbers:
        value = bad_value(entry, kind)
        if not hosts_word(node.GET_SCHEMA().node_id, name, value, chosen):
            with pytest.raises(ValueError, match=rf"\(input '{re.escape(name)}' of "):
                node.PREPARE_CLASS_CLONE(None).execute(**nested(name, value, chosen))


OTHERS = {
    "text": "7",
    "none": None,
    "list": [32],
    "empty list": [],
    "huge": 10**5000,
    "bool": True,
    "fraction": 2.5,
    "wide": 1_000_000,
    "nothing": 0,
}


@pytest.mark.parametrize("value", OTHERS.values(), ids=OTHERS)
def test_a_linked_value_of_another_kind_or_size_is_refused(pack_nodes, value):
    node = pack_nodes["Guidance_EmptyPixelLatent"]
    with pytest.raises(ValueError, match="(8 to 4096|from 8 to 4096).*input 'width'"):
        node.PREPARE_CLASS_CLONE(None).execute(width=value, height=32, batch_size=1)


def texts_of(inputs):
    from comfy_api.latest import io

    return [entry.id for entry in inputs if isinstance(entry, io.String.Input)]


@pytest.mark.parametrize("value", [7, None, b"cat", ["cat"], float("nan")], ids=repr)
def test_a_linked_value_that_is_no_text_is_refused_in_one_sentence_with_node_and_input(pack_nodes, value):
    found = [(node, name) for node in pack_nodes.values() for name in texts_of(node.GET_SCHEMA().inputs)]
    assert len(found) > 20
    for node, name in found:
        schema = node.GET_SCHEMA()
        given = [value] if schema.is_input_list else value
        with pytest.raises(ValueError) as caught:
            node.PREPARE_CLASS_CLONE(None).execute(**{name: given})
        kind = type(value).__name__
        assert str(caught.value) == f"a text is needed, and {kind} came (input '{name}' of {schema.display_name})"


def test_the_limits_themselves_are_possible(numbers):
    from pack.nodes.host.errors import check_values

    for _, _, entry, _ in numbers:
        for value in (entry.min, entry.max, entry.default):
            check_values([entry], {entry.id: value})


def windows(pack_nodes):
    """Nodes with a window, but for the one with a dynamic input."""
    found = {key for key, node in pack_nodes.items() if "start_percent" in {e.id for e in node.GET_SCHEMA().inputs}}
    return sorted(found - {"Guidance_CFGPatch"})


def test_a_window_that_ends_before_it_starts_is_refused_before_anything_runs(pack_nodes):
    assert len(windows(pack_nodes)) >= 9
    for node_id in windows(pack_nodes):
        node = pack_nodes[node_id]
        said = node.validate_inputs(start_percent=0.8, end_percent=0.2)
        assert said == "the window ends (0.2) before it starts (0.8); exchange start_percent and end_percent"
        assert "not within 0 and 1" in node.validate_inputs(start_percent=float("nan"), end_percent=0.2)
        assert node.validate_inputs(start_percent=0.2, end_percent=0.2) is True
        assert node.validate_inputs(end_percent=0.0) is True  # the start comes from another node


def test_a_linked_window_that_ends_before_it_starts_is_refused_with_node_and_inputs(pack_nodes):
    for node_id in windows(pack_nodes):
        node = pack_nodes[node_id]
        schema = node.GET_SCHEMA()
        given = {entry.id: getattr(entry, "default", None) for entry in schema.inputs}
        with pytest.raises(ValueError) as caught:
            node.PREPARE_CLASS_CLONE(None).execute(**{**given, "start_percent": 0.8, "end_percent": 0.2})
        said = rf"the window ends .*\(input '[a-z_, ]*start_percent[a-z_, ]*' of {schema.display_name}\)"
        assert re.match(said, str(caught.value)), caught.value


def test_the_host_refuses_a_typed_window_that_ends_before_it_starts(pack_nodes):
    hosts_word.classes = pack_nodes
    chosen = {"weight": 1.0, "start_percent": 0.8, "curve": "constant", "class_label": ""}
    (error,) = hosts_word("Guidance_ClassifierGuide", "end_percent", 0.2, chosen)
    assert error["details"].startswith("end_percent - the window ends (0.2) before it starts (0.8); exchange")
