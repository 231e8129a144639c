"""What a host's history becomes: files, columns, settings inside a PNG."""

import io
import json

import pytest
from conftest import WORKFLOW
from PIL import Image, PngImagePlugin

from sweep.outputs import files, scores, with_settings_inside


def said(text):
    return scores(WORKFLOW, {"8": {"text": [text]}})


def test_saved_files_come_before_previews_and_nodes_in_order():
    def file(name, kind):
        return {"filename": name, "subfolder": "", "type": kind}

    outputs = {
        "10": {"images": [file("c", "output")]},
        "9": {"images": [file("a", "output"), file("b", "output")], "animated": [False]},
        "2": {"images": [file("p", "temp")]},
    }
    assert [entry["filename"] for entry in files(outputs)] == ["a", "b", "c", "p"]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("0.31", {"Judge": 0.31}),
        ("[1, 2, 6]", {"Judge": 3.0}),
        ("clip score: 0.31\naesthetic = 5", {"Judge.clip score": 0.31, "Judge.aesthetic": 5.0}),
        ('{"clip": {"mean": 0.5, "all": [0.4, 0.6]}}', {"Judge.mean": 0.5, "Judge.all": 0.5}),
        ("a heart", {"Judge": "a heart"}),
        ("", {}),
        ("long " * 100, {}),
    ],
)
def test_texts_of_nodes_become_columns(text, columns):
    assert said(text) == columns


def test_of_a_report_over_steps_the_last_row_counts():
    rows = [{"progress": 0.0, "loss": 2.0, "note": None}, {"progress": 1.0, "loss": 0.5, "note": None}]
    one, two = {"text: a star": rows}, {"text": rows, "style": rows}
    assert said(json.dumps({"note": "", "guides": one}, indent=1)) == {"Judge.progress": 1.0, "Judge.loss": 0.5}
    assert said(json.dumps({"guides": two}))["Judge.guides.style.loss"] == 0.5


def test_two_nodes_of_one_title_are_told_apart():
    workflow = WORKFLOW | {"7": WORKFLOW["8"]}
    assert scores(workflow, {"7": {"score": [1]}, "8": {"score": [2]}}) == {"Judge 7.score": 1, "Judge 8.score": 2}


def test_settings_go_into_a_png_and_everything_else_stays():
    picture, texts = Image.effect_noise((16, 16), 50), PngImagePlugin.PngInfo()
    texts.add_text("prompt", "what the host wrote")
    content = io.BytesIO()
    picture.save(content, "PNG", pnginfo=texts)
    settings = {"2.inputs.text": "ein Café"}
    with Image.open(io.BytesIO(with_settings_inside(content.getvalue(), settings))) as found:
        found.load()
        assert found.tobytes() == picture.tobytes()
        assert found.text["prompt"] == "what the host wrote" and json.loads(found.text["sweep"]) == settings


def test_a_file_of_another_kind_stays_as_it_is():
    assert with_settings_inside(b"RIFF....WEBP", {"a": 1}) == b"RIFF....WEBP"
