"""Train: the network, by torchrun, on the packed training subjects."""
