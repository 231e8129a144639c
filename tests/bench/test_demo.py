"""What the demo prints."""

import io
import json

import torch
from PIL import Image

from bench import demo, judge, made_with
from training.scenes import SHAPES, draw, render


def pngs(images):
    for pixels in ((images + 1) * 127.5).round().byte().movedim(1, -1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        yield file.getvalue()


def drawn(shapes):
    return list(pngs(render(draw(len(shapes), torch.Generator().manual_seed(3), shape=shapes)).image))


def test_the_line_is_short_and_holds_folder_number_targets_hashes_accuracies_and_seconds(tmp_path):
    shapes = torch.arange(64) % len(SHAPES)
    found = demo.result(tmp_path / "out", 12.34, drawn(shapes.roll(1)), drawn(shapes))
    line = json.dumps(found)
    assert len(line) < 700 and "\n" not in line
    assert set(found) == {
        "folder",
        "n",
        "targets",
        "judge_sha256",
        "model_sha256",
        "classifier_sha256",
        "accuracy_unguided",
        "accuracy_guided",
        "seconds",
    }
    assert found["n"] == 64 and found["targets"] == list(SHAPES) and found["seconds"] == 12.3
    assert found["accuracy_guided"] > 0.95 and found["accuracy_unguided"] < 0.1
    assert found["judge_sha256"] == judge.sha256()
    assert found["model_sha256"] == made_with.hashes([made_with.UNET])["models/demo/models/scenes_unet.safetensors"]


def test_the_words_say_where_to_look_and_how_often_the_judge_agrees():
    found = {"folder": "output/demo", "accuracy_unguided": 0.125, "accuracy_guided": 0.9}
    words = demo.what_to_look_at(found)
    assert "output/demo/sheet.png" in words and "12%" in words and "90%" in words


def test_captions_stand_over_the_guided_half_alone():
    sheet = demo.prompt()["8"]["inputs"]
    captions = sheet["labels"].split("\n")
    assert len(captions) == 2 * demo.PICTURES and not any(captions[: demo.PICTURES])
    assert captions[demo.PICTURES :] == list(SHAPES) * (demo.PICTURES // len(SHAPES))
