"""Networks as people train them with the published code's flags, and their files."""

from dataclasses import replace

import golden_files
import torch

from pack.models.adm.network import Classifier, ClassifierConfig, UNet, UNetConfig

OWN = UNetConfig(
    model_channels=64,
    out_channels=6,
    num_res_blocks=1,
    channel_mult=(1, 2),
    attention=(2,),
    resblock_updown=False,
    num_heads=4,
)
OWN_CLASSIFIER = ClassifierConfig(
    model_channels=64,
    out_channels=5,
    num_res_blocks=1,
    channel_mult=(1, 2),
    attention=(1, 2),
    head_channels=64,
    image_size=16,
)


def own_unet(**changes):
    """A network of OWN but for the changes, with weights that give outputs of size 1."""
    return golden_files.fill(UNet(replace(OWN, **changes)), "own")


def own_classifier(**changes):
    return golden_files.fill(Classifier(replace(OWN_CLASSIFIER, **changes)), "own")


def saved(network, path, prefix=""):
    """Its state dict as a PyTorch file."""
    torch.save({prefix + key: value for key, value in network.state_dict().items()}, path)
    return path
