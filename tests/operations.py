"""Operations on tensors, as a dispatch mode sees them."""

import math

VIEWS = ("set_", "select", "_local_scalar_dense", "lift_fresh", "view", "detach")  # of numbers that are there already


def takes_memory(func, args):
    """Whether memory can run out in it; in what safetensors asks for to look at a mapped file it can't."""
    name = func._schema.name.partition("::")[2]
    return name not in VIEWS and not (name == "empty" and math.prod(args[0]) == 0)
