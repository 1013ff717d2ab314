"""The networks that this project trains, by name."""

from model.baselines.msdra import MSDRA
from model.baselines.msrpan import MSRPAN
from model.errors import InputError
from model.network import CHANNELS, Autoencoder, FusionNetwork

NETWORKS: dict[str, type[Autoencoder]] = {"dilran": FusionNetwork, "msrpan": MSRPAN, "msdra": MSDRA}
WIDTHS = range(8, 257, 8)


def make_network(name: str, width: int = CHANNELS) -> Autoencoder:
    """A network of that name in NETWORKS, untrained; `width` counts the channels of its encodings."""
    check_width(name, width)
    return FusionNetwork(width) if name == "dilran" else NETWORKS[name]()


def check_width(network: str, width: int) -> None:
    """Raise InputError for a width that the network does not come in."""
    if network != "dilran" and width != CHANNELS:
        raise InputError(f"width is {width}, but {network} comes in {CHANNELS} only; leave width out, or train dilran")
    if type(width) is not int or width not in WIDTHS:
        raise InputError(f"width is {width}; give a multiple of 8 from {WIDTHS[0]} to {WIDTHS[-1]}")
