"""The methods the network is compared with, in one registry."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from model.baselines.classical import average, laplacian, maximum

__all__ = ["METHODS", "Method"]

_TEXTBOOK = "Stathaki (ed.), Image Fusion: Algorithms and Applications, Academic Press, 2008"


@dataclass(frozen=True)
class Method:
    """A fusion method: its name, how it is shown and cited; `function` is (a, b) -> fused, (N, 1, H, W) in [0, 1]."""

    name: str
    title: str
    citation: str
    function: Callable[[Tensor, Tensor], Tensor]


METHODS = {
    method.name: method
    for method in (
        Method("average", "Average", _TEXTBOOK, average),
        Method("maximum", "Elementwise maximum", _TEXTBOOK, maximum),
        Method(
            "laplacian",
            "Laplacian pyramid",
            "Burt, Adelson, The Laplacian Pyramid as a Compact Image Code, IEEE Trans. Commun. 31(4):532-540, 1983",
            laplacian,
        ),
    )
}
