"""Every fusion method in one registry, behind one interface: the network by each strategy, and all baselines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from model.baselines.classical import average, dwt, guided, laplacian, maximum
from model.baselines.zero_learning import load_zero_learning
from model.errors import MissingWeights, unknown_choice
from model.fuser import Fuser
from model.strategies import STRATEGIES

__all__ = [
    "CLASSICAL",
    "METHODS",
    "SPLITS",
    "Fuse",
    "Method",
    "MissingWeights",
    "Resources",
    "Split",
    "shipped_weights",
    "strategy_title",
]

Fuse = Callable[[Tensor, Tensor], Tensor]
Split = Literal["subject", "paper"]
Needs = Literal["nothing", "VGG19 to relu2_2", "trained weights"]

SPLITS: tuple[Split, ...] = get_args(Split)
SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Resources:
    """Where methods find their weights: those trained on which split, which VGG19 file (None: the model zoo's, kept in
    the cache once fetched), the device they run on, and whether networks may be computed faster than layer by layer."""

    split: Split = "subject"
    vgg: Path | None = None
    device: str = "cpu"
    fast: bool = True

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise unknown_choice("split", self.split, SPLITS)


@dataclass(frozen=True)
class Method:
    """A fusion method: its name, how it is shown and cited, what it needs, and how to have it.

    `load` gives (a, b) -> fused, float (N, 1, H, W) in [0, 1], `a` the CT, PET or SPECT and `b` the MR; of a network
    with a strategy that is a Fuser. It raises MissingWeights where the method cannot run. `trained` names the shipped
    folders of trained weights, without the split; empty where there are none to train.
    """

    name: str
    title: str
    kind: Literal["network", "baseline"]
    citation: str
    needs: Needs
    load: Callable[[Resources], Fuse]
    trained: str = ""


def shipped_weights(trained: str, split: Split) -> Path:
    """The folder of trained weights that ships for this split; raises MissingWeights, with the remedy, if none does."""
    folder = SHIPPED / f"{trained}-{split}"
    if not folder.is_dir():
        command = f"fusion weights train {folder.name} --data DIR -o {SHIPPED}"
        if trained == "shearlet-cnn":
            command = f"python -m model.baselines.shearlet_training PACKED -o {folder}"
        raise MissingWeights(
            f"no trained weights shipped for {trained} on the {split} split; train them by `{command}`"
        )
    return folder


def _network(
    name: str,
    title: str,
    citation: str,
    trained: str,
    strategy: str | None = None,
    batchnorm: str | None = None,
    kind: Literal["network", "baseline"] = "network",
) -> Method:
    def load(resources: Resources) -> Fuse:
        folder = shipped_weights(trained, resources.split)
        return Fuser.load(folder, strategy=strategy, batchnorm=batchnorm, device=resources.device, fast=resources.fast)

    return Method(name, title, kind, citation, "trained weights", load, trained)


def _shearlet_cnn(resources: Resources) -> Fuse:
    from model.baselines.shearlet_cnn import load_shearlet_cnn

    return load_shearlet_cnn(shipped_weights("shearlet-cnn", resources.split), resources.device)


def _zero_learning(variant: str, resources: Resources) -> Fuse:
    return load_zero_learning(variant, resources.vgg, resources.device)


def _classical(name: str, title: str, citation: str, fuse: Fuse) -> Method:
    return Method(name, title, "baseline", citation, "nothing", lambda _: fuse)


def strategy_title(name: str) -> str:
    """A fusion strategy as a reader meets it."""
    return name.upper() if name in ("sfnn", "fer", "fl1n") else name


_DILRAN = (
    "Zhou, Xu, Zhang, An Attention-based Multi-Scale Feature Learning Network for Multimodal Medical Image Fusion,"
    " arXiv 2212.04661, 2022"
)
_ZERO_LEARNING = "Lahoud, Süsstrunk, Fast and Efficient Zero-Learning Image Fusion, arXiv 1905.03590, 2019"
_TEXTBOOK = "Stathaki (ed.), Image Fusion: Algorithms and Applications, Academic Press, 2008"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _network("dilran", "This network", _DILRAN, "dilran"),
        # SFNN on the statistics of each image alone, as published.
        _network("dilran-sfnn", "This network, SFNN", _DILRAN, "dilran", "sfnn", "image"),
        _network("dilran-mse-sfnn", "This network, only MSE, SFNN", _DILRAN, "dilran-mse", "sfnn", "image"),
        *(
            _network(f"dilran-{name}", f"This network, {strategy_title(name)}", _DILRAN, "dilran", name)
            for name in STRATEGIES
            if name != "sfnn"
        ),
        _network(
            "msrpan",
            "MSRPAN",
            "Fu, Li, Du, Huang, A multiscale residual pyramid attention network for medical image fusion,"
            " Biomed. Signal Process. Control 66:102488, 2021",
            "msrpan",
            "fer",
            kind="baseline",
        ),
        _network(
            "msdra",
            "MSDRA",
            "Li, Peng, Fu, Wang, Huang, Chao, A multiscale double-branch residual attention network for anatomical-"
            "functional medical image fusion, Comput. Biol. Med. 141:105005, 2022",
            "msdra",
            "fl1n",
            kind="baseline",
        ),
        Method(
            "shearlet-cnn",
            "CNN in the shearlet domain",
            "baseline",
            "Hermessi, Mourali, Zagrouba, Convolutional neural network-based multimodal image fusion via similarity"
            " learning in the shearlet domain, Neural Comput. Appl. 30:2029-2045, 2018",
            "trained weights",
            _shearlet_cnn,
            "shearlet-cnn",
        ),
        *(
            Method(name, title, "baseline", _ZERO_LEARNING, "VGG19 to relu2_2", partial(_zero_learning, variant))
            for name, title, variant in (
                ("zero-learning", "Zero-learning", "single"),
                ("zero-learning-two-scale", "Zero-learning, two-scale", "two-scale"),
                ("zero-learning-multi-layer", "Zero-learning, multi-layer", "multi-layer"),
            )
        ),
        _classical("average", "Average", _TEXTBOOK, average),
        _classical("maximum", "Elementwise maximum", _TEXTBOOK, maximum),
        _classical(
            "laplacian",
            "Laplacian pyramid",
            "Burt, Adelson, The Laplacian Pyramid as a Compact Image Code, IEEE Trans. Commun. 31(4):532-540, 1983",
            laplacian,
        ),
        _classical(
            "dwt",
            "Wavelet transform",
            "Li, Manjunath, Mitra, Multisensor Image Fusion Using the Wavelet Transform, Graph. Models Image Process."
            " 57(3):235-245, 1995",
            dwt,
        ),
        _classical(
            "guided-filter",
            "Guided filter",
            "Li, Kang, Hu, Image Fusion With Guided Filtering, IEEE Trans. Image Process. 22(7):2864-2875, 2013",
            guided,
        ),
    )
}
"""Every method by name, in the order of tables."""

CLASSICAL: tuple[str, ...] = tuple(name for name, method in METHODS.items() if method.needs == "nothing")
"""The methods that run anywhere, because they need nothing."""
