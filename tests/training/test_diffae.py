"""A diffusion autoencoder of one's own: from a folder of pictures to a file that the pack loads."""

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from models.diffae import codec_of
from models.registry import load_checkpoint
from training import autoencoder_sheet, diffae
from training.pictures import Pictures


@pytest.fixture
def folder(tmp_path):
    """Five pictures in several formats and sizes, one of them deeper, and two files that are none."""
    root = tmp_path / "pictures"
    (root / "deeper").mkdir(parents=True)
    for k, (name, mode, size) in enumerate(
        [("a.png", "RGB", (40, 40)), ("b.jpg", "RGB", (90, 50)), ("c.webp", "RGB", (33, 64)), ("d.png", "L", (32, 32))]
    ):
        Image.new(mode, size, color=40 * k).save(root / name)
    Image.new("RGBA", (70, 64), color=(200, 10, 10, 255)).save(root / "deeper" / "e.PNG")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    (root / "notes.txt").write_text("no picture")
    return root


def train(monkeypatch, *arguments):
    monkeypatch.setattr(autoencoder_sheet, "STEPS", 2)
    monkeypatch.setattr("sys.argv", ["train", "--device", "cpu", "--batch", "2", "--prior-minutes", "0.01", *arguments])
    diffae.main()


def test_a_folder_is_read_with_its_subfolders_and_broken_files_are_named(folder, capsys):
    pictures = Pictures(folder, 32)
    assert pictures.bytes.shape == (5, 3, 32, 32)
    assert "broken.png" in capsys.readouterr().err
    batch = next(pictures.batches(4, torch.Generator().manual_seed(0))).image
    assert batch.shape == (4, 3, 32, 32) and batch.min() >= -1 and batch.max() <= 1


def test_a_picture_is_its_upright_middle(tmp_path):
    """Left half black, right half white, twice as wide as high, stored on its side."""
    image = Image.new("L", (64, 32))
    image.paste(255, (32, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    seen = Pictures(tmp_path, 32).picked(torch.tensor([0]))[0]
    assert (seen[:, :, :15] == -1).all() and (seen[:, :, 17:] == 1).all()


def test_a_folder_without_pictures_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="--images .*no readable picture"):
        Pictures(tmp_path, 32)


def test_the_packs_own_file_is_not_replaced(folder, monkeypatch):
    with pytest.raises(SystemExit, match="--out"):
        train(monkeypatch, "--images", str(folder))


@pytest.mark.parametrize("size", diffae.SIZES)
def test_a_folder_becomes_an_autoencoder_with_prior_and_a_sheet(folder, tmp_path, monkeypatch, size):
    out = tmp_path / "mine.safetensors"
    train(monkeypatch, "--images", str(folder), "--size", str(size), "--count", "2", "--out", str(out))
    checkpoint = load_checkpoint(out, "model")
    assert checkpoint.architecture.id == "diffae" and checkpoint.facts.image_size == size
    network = checkpoint.build()
    network.load_state_dict({key: value.float() for key, value in checkpoint.state.items()}, strict=True)
    z_sem = codec_of(checkpoint).encoder(torch.zeros(1, 3, size, size))
    assert z_sem.shape == checkpoint.beside["conds_mean"].shape
    assert Image.open(out.with_suffix(".png")).size == (8 * size, 4 * size)


def test_a_killed_run_goes_on(folder, tmp_path, monkeypatch):
    out = tmp_path / "mine.safetensors"
    common = ["--images", str(folder), "--size", "32", "--out", str(out)]
    train(monkeypatch, *common, "--count", "4")
    train(monkeypatch, *common, "--count", "8", "--resume", str(tmp_path / "mine.resume.safetensors"))
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["training"])["images"] == 8
    assert not list(tmp_path.glob("*.part"))
