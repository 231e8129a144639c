"""Choices of every node: a linked one that is none of the list is refused by name, never by a KeyError."""

import pytest

pytestmark = pytest.mark.host
FILES = ("model_name", "classifier_name", "encoder_name", "direction_name", "matcher_name", "scorer_name")
FILES += ("prior_name", "file_name")
BESIDE = "statistics_name"  # a file that another one needs


def choices_of(inputs, chosen=(), prefix=""):
    """(name, {name: option} that shows it) of each list, those within dynamic ones and the dynamic ones too."""
    from comfy_api.latest import io

    for entry in inputs:
        name = f"{prefix}{entry.id}"
        if isinstance(entry, io.Combo.Input | io.DynamicCombo.Input):
            yield name, dict(chosen)
        if isinstance(entry, io.DynamicCombo.Input):
            for option in entry.options:
                yield from choices_of(option.inputs, (*chosen, (name, option.key)), f"{name}.")


def given(name, value, chosen):
    """Values as a node gets them: those of a dynamic input under its name."""
    outer, dot, inner = name.partition(".")
    return {outer: {outer: chosen[outer], inner: value}} if dot else {outer: value}


@pytest.mark.parametrize("value", ["nonsense", 7, "__class__"])
def test_a_choice_that_is_none_of_the_list_is_refused_with_node_and_input(pack_nodes, value):
    tried = 0
    for node in pack_nodes.values():
        schema = node.GET_SCHEMA()
        for name, chosen in choices_of(schema.inputs):
            if name in (*FILES, BESIDE):
                continue
            with pytest.raises(ValueError) as caught:
                node.PREPARE_CLASS_CLONE(None).execute(**given(name, value, chosen))
            said = str(caught.value)
            assert said.startswith(f"there is no {value!r}; there are ") and "\n" not in said
            assert said.endswith(f" (input '{name}' of {schema.display_name})")
            tried += 1
    assert tried > 30


def test_every_input_that_chooses_a_file_says_itself_that_it_is_gone(pack_nodes, execute):
    files = {
        (node_id, name) for node_id, node in pack_nodes.items() for name, _ in choices_of(node.GET_SCHEMA().inputs)
    }
    files = {(node_id, name) for node_id, name in files if name.endswith("_name") and name != BESIDE}
    assert {name for _, name in files} == set(FILES)
    for node_id, name in files:
        with pytest.raises(ValueError, match=f"there is no file 'gone.safetensors'.*input '{name}'"):
            execute(node_id, **{name: "gone.safetensors"})


def test_a_dynamic_choice_that_is_linked_bare_is_refused(pack_nodes):
    node = pack_nodes["Guidance_CFGPatch"]
    (name,) = [name for name, _ in choices_of(node.GET_SCHEMA().inputs) if "." not in name][:1]
    with pytest.raises(ValueError, match=f"there is no 'nonsense'.*input '{name}'"):
        node.PREPARE_CLASS_CLONE(None).execute(**{name: "nonsense"})
