"""LPIPS files with drawn weights, and the paper's formula on torchvision's networks."""

import torch
import torchvision
from torch.nn.functional import normalize

# Of the package lpips: the layers of torchvision's `features` that end each slice.
ENDS = {"alex": (2, 5, 8, 10, 12), "vgg": (4, 9, 16, 23, 30)}
BUILD = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}


def drawn(net, seed=0):
    """(torchvision's features, weights of the channels by slice), drawn at random."""
    torch.manual_seed(seed)
    features = BUILD[net](weights=None).features.eval().requires_grad_(False)
    x, widths, start = torch.zeros(1, 3, 64, 64), [], 0
    for end in ENDS[net]:
        x, start = features[start:end](x), end
        widths.append(x.shape[1])
    return features, [torch.rand(1, width, 1, 1) for width in widths]


def state(net, features, weights):
    """As `lpips.LPIPS(net).state_dict()` names it, `lins` included."""
    found = {
        "scaling_layer.shift": torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None],
        "scaling_layer.scale": torch.tensor([0.458, 0.448, 0.450])[None, :, None, None],
    }
    for key, value in features.state_dict().items():
        place = sum(int(key.split(".")[0]) >= end for end in ENDS[net])
        found[f"net.slice{place + 1}.{key}"] = value
    for place, weight in enumerate(weights):
        found[f"lin{place}.model.1.weight"] = found[f"lins.{place}.model.1.weight"] = weight
    return {key: value.clone() for key, value in found.items()}


def distance(net, features, weights, x, y):
    """Sum over slices of the mean over places of sum_c w_c (F_c / |F| - F'_c / |F'|)^2, [B]."""
    shift, scale = (torch.tensor(values)[:, None, None] for values in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    x, y, start, total = (x - shift) / scale, (y - shift) / scale, 0, 0.0
    for end, weight in zip(ENDS[net], weights, strict=True):
        x, y, start = features[start:end](x), features[start:end](y), end
        total = total + (weight * (normalize(x, dim=1) - normalize(y, dim=1)) ** 2).sum(1).mean((1, 2))
    return total
