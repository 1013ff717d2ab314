"""The networks that this project trains, by name."""

from model.baselines.msdra import MSDRA
from model.baselines.msrpan import MSRPAN
from model.network import Autoencoder, FusionNetwork

NETWORKS: dict[str, type[Autoencoder]] = {"dilran": FusionNetwork, "msrpan": MSRPAN, "msdra": MSDRA}
