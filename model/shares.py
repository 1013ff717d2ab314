"""How much of a fused image comes from the first source, for the methods that decide it pixel by pixel."""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.baselines.classical import average, maximum
from model.fuser import Fuser
from model.methods import Fuse


def share_of_first(fuse: Fuse, a: Tensor, b: Tensor) -> Tensor | None:
    """The weight of `a` in what `fuse` makes of a pair, `b` having the rest; None where it has no one weight a pixel.

    Two (N, 1, H, W) in [0, 1] to one. Of a network it is the weight of the encodings, see `Fuser.share_each`.
    """
    if isinstance(fuse, Fuser):
        return fuse.share_each(a, b, [fuse.strategy]).get(fuse.strategy)
    if fuse is average:
        return torch.full_like(a, 0.5)
    if fuse is maximum:
        return (torch.sign(a - b) + 1) / 2
    return None


def shares_of_first(methods: Mapping[str, Fuse], a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """`share_of_first` of several methods by name, without those that have none.

    The Fusers among them must be of one network, which encodes the pair once for all their strategies.
    """
    fusers = {name: fuse for name, fuse in methods.items() if isinstance(fuse, Fuser)}
    strategies = [fuser.strategy for fuser in fusers.values()]
    shares = next(iter(fusers.values())).share_each(a, b, strategies) if fusers else {}
    found = {
        name: shares.get(fusers[name].strategy) if name in fusers else share_of_first(fuse, a, b)
        for name, fuse in methods.items()
    }
    return {name: share for name, share in found.items() if share is not None}
