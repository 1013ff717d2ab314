"""What a fused image keeps of a lesion: the ratio, its limits, and what counts on neither side."""

import math

import pytest
import torch

from model.errors import InputError
from model.lesions import lesion_contrast, lesion_retention


def disc(centre: int = 20, size: int = 40, radius: int = 6) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((y - centre) ** 2 + (x - centre) ** 2 <= radius**2)[None, None]


def test_contrast_is_inside_less_ring_with_its_sign():
    lesion = disc()
    assert float(lesion_contrast(0.3 + 0.5 * lesion, lesion)) == pytest.approx(0.5)
    assert float(lesion_contrast(0.8 - 0.5 * lesion, lesion)) == pytest.approx(-0.5)


@pytest.mark.parametrize(("strength", "expected"), [(0.5, 1.0), (0.25, 0.5), (0.0, 0.0), (-0.2, 0.0), (0.6, 1.0)])
def test_retention_is_the_share_kept_and_neither_flips_nor_gains_count(strength: float, expected: float):
    lesion = disc()
    kept = lesion_retention(0.3 + strength * lesion, 0.1 + 0.5 * lesion, lesion)
    assert float(kept) == pytest.approx(expected)


def test_what_is_ignored_changes_nothing():
    lesion, bone = disc(), torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    bone[..., 28:31] = True
    source = 0.2 + 0.4 * lesion.float()
    assert float(lesion_contrast(torch.where(bone, 1.0, source), lesion, bone)) == pytest.approx(0.4)
    assert float(lesion_contrast(torch.where(bone, 1.0, source), lesion)) < 0.35


def test_images_without_a_lesion_or_without_contrast_say_so():
    lesion = torch.cat([disc(), disc() & False, disc()])
    image = torch.cat([0.5 * disc(), disc().float(), torch.full((1, 1, 40, 40), 0.5)])
    kept = lesion_retention(image, image, lesion).tolist()
    assert kept[0] == pytest.approx(1.0)
    assert math.isnan(kept[1]) and math.isnan(kept[2])


def test_masks_of_another_shape_or_type_are_refused():
    with pytest.raises(InputError, match="bool"):
        lesion_contrast(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match="4, 4"):
        lesion_contrast(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4, dtype=torch.bool))
