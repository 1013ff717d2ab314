"""The science of atlas-fusion in plain PyTorch: network, fusion strategies, losses, measures, baselines, training."""
