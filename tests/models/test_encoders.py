"""Encoders of every family: read from shapes, asked by layer, refused in words."""

import pytest
import torch
from safetensors.torch import save_file

from pack.models.architecture import parse
from pack.models.clip import CLIP, ClipConfig, read_config
from pack.models.clip_noisy.words import indices
from pack.models.encoder import STYLE, chosen_layers
from pack.models.registry import ARCHITECTURES, DEMO, load_checkpoint
from pack.models.state_dict import CheckpointError
from pack.models.vgg.network import LAYERS, VGG19, VGGConfig

TEXT = {"text_width": 64, "text_layers": 2, "text_heads": 1, "text_mlp_ratio": 4.0, "context": 77, "vocabulary": 49408}
VIT = ClipConfig(16, 32, 64, (3,), 8, 64, 4.0, **TEXT)
RESNET = ClipConfig(16, 64, 16, (1, 2, 1, 1), 32, 64, 4.0, **TEXT, quick_gelu=True)


@pytest.fixture(scope="module")
def clips():
    """Small random CLIPs of both kinds."""
    torch.manual_seed(0)
    return {config: CLIP.build(config).eval().requires_grad_(False) for config in (VIT, RESNET)}


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["ViT", "ResNet"])
def test_a_clip_is_read_from_its_shapes(clips, config):
    found = read_config(clips[config].state_dict())
    exact = {key: value for key, value in vars(config).items() if "ratio" not in key}
    assert {key: value for key, value in vars(found).items() if "ratio" not in key} == exact
    checkpoint = parse("file.safetensors", dict(clips[config].state_dict()), {}, ARCHITECTURES)
    assert checkpoint.architecture is CLIP and not checkpoint.facts.noise_aware


def test_openais_own_files_use_quick_gelu_and_their_extra_entries_are_ignored(clips):
    state = {**clips[VIT].state_dict(), "input_resolution": torch.tensor(32), "context_length": torch.tensor(77)}
    checkpoint = parse("ViT.safetensors", state, {}, ARCHITECTURES)
    assert checkpoint.config.quick_gelu
    assert not parse("ViT.safetensors", dict(clips[VIT].state_dict()), {}, ARCHITECTURES).config.quick_gelu


def test_a_vits_embedding_is_open_clips_own(clips):
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    network = clips[VIT]
    expected = network.encode_image(((x + 1) / 2 - network.mean) / network.std)
    torch.testing.assert_close(network.embed(x, torch.zeros(2)), expected)


def test_block_maps_are_the_tokens_behind_a_block_and_keys_those_of_its_attention(clips):
    network, x = clips[VIT], torch.rand(2, 3, 32, 32)
    seen = {}
    blocks = network.visual.transformer.resblocks
    hooks = [
        blocks[1].register_forward_hook(lambda module, inputs, output: seen.update(block=output)),
        blocks[2].ln_1.register_forward_hook(lambda module, inputs, output: seen.update(entering=output)),
    ]
    network.encode_image(((x + 1) / 2 - network.mean) / network.std)  # open_clip's own pass
    for hook in hooks:
        hook.remove()
    keys, block = network.maps(x, torch.zeros(2), ["keys 3", "block 2"])
    assert block.shape == keys.shape == (2, 64, 4, 4)
    torch.testing.assert_close(block.flatten(2).transpose(1, 2), seen["block"][:, 1:])
    attention = blocks[2].attn
    expected = seen["entering"][:, 1:] @ attention.in_proj_weight[64:128].T + attention.in_proj_bias[64:128]
    torch.testing.assert_close(keys.flatten(2).transpose(1, 2), expected)


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["ViT", "ResNet"])
def test_nothing_behind_the_last_layer_asked_for_is_computed(clips, config):
    network = clips[config]
    last = network.visual.transformer.resblocks[2].ln_1 if config is VIT else network.visual.layer4
    ran = []
    hook = last.register_forward_hook(lambda *_: ran.append(1))
    first = "block 1" if config is VIT else "layer1"
    picture = torch.rand(1, 3, config.image_size, config.image_size)
    network.maps(picture, torch.zeros(1), [first])
    assert not ran
    network.embed(picture, torch.zeros(1))
    hook.remove()
    assert ran


def test_a_prompt_longer_than_the_context_is_refused_and_not_cut(clips):
    assert clips[VIT].embed_text("a cat").shape == (1, 16)
    with pytest.raises(ValueError, match="the text has 100 tokens, this encoder reads 75; shorten it"):
        clips[VIT].embed_text("cat " * 100)
    with pytest.raises(ValueError, match="the text is empty"):
        clips[VIT].embed_text("  ")


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return VGG19(VGGConfig(widths=(4, 6, 8, 8, 8))).eval().requires_grad_(False)


def test_a_torchvision_vgg19_is_recognised_and_its_classifier_left_out(vgg):
    state = {**vgg.state_dict(), "classifier.0.weight": torch.zeros(3, 3)}
    checkpoint = parse("vgg19.pth", state, {}, ARCHITECTURES)
    network = checkpoint.build()
    network.load_state_dict(checkpoint.state, strict=True)
    with pytest.raises(CheckpointError):
        parse("vgg19_bn.pth", {**state, "features.1.weight": torch.zeros(4)}, {}, ARCHITECTURES)


def test_vggs_layers_are_named_as_in_the_literature(vgg):
    import torchvision

    theirs = torchvision.models.vgg19(weights=None).features
    assert [type(layer).__name__ for layer in theirs] == [type(layer).__name__ for layer in vgg.features]
    x = torch.rand(1, 3, 32, 32)
    h, expected = ((x + 1) / 2 - vgg.mean) / vgg.std, {}
    names = iter(LAYERS)
    for layer in vgg.features:
        h = layer(h)
        if isinstance(layer, torch.nn.ReLU):
            expected[next(names)] = h
    found = vgg.maps(x, torch.zeros(1), ["relu3_1", "relu1_2"])
    assert torch.equal(found[0], expected["relu3_1"]) and torch.equal(found[1], expected["relu1_2"])


def test_vgg_has_no_embedding_and_no_texts(vgg):
    with pytest.raises(ValueError, match="no embedding"):
        vgg.embed(torch.zeros(1, 3, 32, 32), torch.zeros(1))
    with pytest.raises(ValueError, match="knows no texts"):
        vgg.embed_text("a cat")


def test_layers_are_chosen_by_name_and_an_unknown_one_lists_all(vgg):
    assert chosen_layers(" relu1_1 , relu2_2", vgg, STYLE) == ["relu1_1", "relu2_2"]
    assert chosen_layers("", vgg, STYLE) == ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]
    with pytest.raises(ValueError, match="no layer 'relu9_1' in this encoder; there are: relu1_1, relu1_2"):
        chosen_layers("relu9_1", vgg, STYLE)


WORDS = ("a", "red", "star", "on", "background")


def test_a_torchscript_archive_is_refused_as_the_program_it_is(tmp_path):
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    module.save(str(tmp_path / "RN50x16.pt"))
    with pytest.raises(CheckpointError, match="RN50x16.pt is a TorchScript program"):
        load_checkpoint(tmp_path / "RN50x16.pt", "encoder")


def test_words_become_numbers_from_one():
    assert indices("A red, STAR.", WORDS, 5) == [1, 2, 3, 0, 0]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "the text is empty"),
        ("a red stra", "does not know the word 'stra'; did you mean star"),
        ("a dog", "does not know the word 'dog'; it knows: a red star on background"),
        ("a red star on a red star", "the text has 7 words, this encoder reads 5; shorten it"),
    ],
)
def test_texts_that_the_small_encoder_cannot_read_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        indices(text, WORDS, 5)


@pytest.fixture(scope="module")
def shipped():
    checkpoint = load_checkpoint(DEMO / "encoders" / "scenes_clip.safetensors", "encoder")
    network = checkpoint.build()
    network.load_state_dict({key: value.float() for key, value in checkpoint.state.items()}, strict=False)
    return checkpoint, network.eval().requires_grad_(False)


def test_the_shipped_encoder_is_noise_aware_and_says_its_scales(shipped):
    checkpoint, _ = shipped
    assert checkpoint.facts.noise_aware and checkpoint.facts.image_size == 32
    assert set(checkpoint.facts.guide_scales) == {"text", "content", "difference", "self-similarity", "style"}


def test_the_shipped_encoder_reads_captions_of_clean_and_noisy_scenes(shipped):
    """Background, colour: nearly always; shape and texture: far above chance (.125 and .2)."""
    from models.schedule import NoiseSchedule
    from training.scenes import CLASSES, draw, render

    _, network = shipped
    generator = torch.Generator().manual_seed(7)
    scenes = render(draw(256, generator))
    labels = scenes.attributes.labels()
    patterns = {"shape": "a {}", "colour": "a {} shape", "background": "a shape on a {}", "texture": "a {} shape"}
    ab = NoiseSchedule.named("linear").alphas_cumprod.float()
    for t, wanted in ((0, (0.75, 0.98, 0.98, 0.85)), (250, (0.6, 0.95, 0.98, 0.55))):
        noise = torch.randn(scenes.image.shape, generator=generator)
        x = ab[t].sqrt() * scenes.image + (1 - ab[t]).sqrt() * noise
        image = torch.nn.functional.normalize(network.embed(x, torch.full((256,), t)), dim=1)
        for k, (name, words) in enumerate(CLASSES.items()):
            texts = torch.cat([network.embed_text(patterns[name].format(word)) for word in words])
            right = (image @ torch.nn.functional.normalize(texts, dim=1).T).argmax(1) == labels[:, k]
            assert right.float().mean() >= wanted[k], (t, name)


def test_a_file_of_another_kind_is_refused_in_words():
    with pytest.raises(CheckpointError, match="is an ADM U-Net: put it into .*; an encoder is needed here"):
        load_checkpoint(DEMO / "models" / "scenes_unet.safetensors", "encoder")
    with pytest.raises(
        CheckpointError, match="guidance_encoders and load it with Load Guidance Encoder; a model is needed here"
    ):
        load_checkpoint(DEMO / "encoders" / "scenes_clip.safetensors", "model")


def test_a_file_may_be_another_view_of_the_weights_beside_it(tmp_path):
    flow = load_checkpoint(DEMO / "models" / "scenes_flow.safetensors", "model")
    plain = load_checkpoint(DEMO / "models" / "scenes_unet.safetensors", "model")
    assert flow.facts.prediction == "flow" and plain.facts.prediction == "eps"
    assert all(torch.equal(flow.state[key], plain.state[key]) for key in plain.state)
    save_file({}, tmp_path / "view.safetensors", {"weights_in": "../elsewhere/gone.safetensors"})
    with pytest.raises(CheckpointError, match="which is no file's name"):
        load_checkpoint(tmp_path / "view.safetensors", "model")
    save_file({}, tmp_path / "view.safetensors", {"weights_in": "gone.safetensors"})
    with pytest.raises(CheckpointError, match=r"weights in gone\.safetensors; put that file beside it"):
        load_checkpoint(tmp_path / "view.safetensors", "model")
