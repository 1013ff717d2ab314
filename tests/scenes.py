"""Images that tests make up: noise, and dead leaves as two modalities show them."""

import torch

from model.baselines.shearlet_training import natural_images, other_modality


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scene(seed: int, size: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """Dead leaves as two modalities show them, (1, 1, size, size) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    image = natural_images(3, size, generator)[2:]
    return image, other_modality(image, generator).clamp(0, 1)
