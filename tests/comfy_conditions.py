"""The host's nodes that give a CONDITIONING an area or a mask."""

import torch


def set_area(cond, width, height):
    """Conditioning (Set Area), at the upper left."""
    import nodes

    return nodes.ConditioningSetArea().append(cond, width, height, 0, 0, 1.0)[0]


def set_percentage(cond, share):
    import nodes

    return nodes.ConditioningSetAreaPercentage().append(cond, share, share, 0.0, 0.0, 1.0)[0]


def set_mask(cond, side):
    """Conditioning (Set Mask) by the bounds of a white square."""
    import nodes

    mask = torch.zeros(1, 32, 32)
    mask[:, :side, :side] = 1
    return nodes.ConditioningSetMask().append(cond, mask, "mask bounds", 1.0)[0]
