"""Rigid registration of a pair of slices that do not quite lie on each other, by mutual information.

The second image is moved onto the first: Euler transform in the plane, Mattes' mutual information over every pixel, a
gradient descent from coarse to fine (SimpleITK). One thread and no random samples, so the same pair always gives the
same result. Source: Mattes et al., PET-CT image registration in the chest using free-form deformations, IEEE TMI 2003.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.images import Pixels

LARGEST_SHIFT = 0.06
LARGEST_ANGLE = 8.0
# Interpolation alone gains hundredths, and a blurred PET slice as much by a wrong motion of ten pixels.
LEAST_GAIN = 0.05
_BINS = 32


@dataclass(frozen=True)
class Motion:
    """How the second image of a pair is moved: `angle` in degrees about the centre, then `right` and `down` in pixels.

    `before` and `after` are the mutual information in bits. `accepted` says that the motion was carried out: the mutual
    information grows by more than `LEAST_GAIN` of itself, the shift is at most `LARGEST_SHIFT` of the larger side and
    the angle at most `LARGEST_ANGLE`.
    """

    angle: float
    right: float
    down: float
    before: float
    after: float
    accepted: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the index."""
        return asdict(self)


def register_rigid(fixed: Pixels, moving: Pixels) -> tuple[Pixels, Motion]:
    """`moving` moved onto `fixed`, uint8 (H, W) both, and the motion; unchanged where the motion is not accepted."""
    import SimpleITK as sitk  # noqa: N813

    one, other = (sitk.GetImageFromArray(image.astype(np.float32)) for image in (fixed, moving))
    before = mutual_information(fixed, moving)
    try:
        found = _search(sitk, one, other)
    except RuntimeError:  # ITK finds no way down, as on an image of one level
        return moving, Motion(0.0, 0.0, 0.0, before, before, False)
    moved = sitk.Resample(other, one, found, sitk.sitkLinear, 0.0)
    result = np.clip(np.rint(sitk.GetArrayFromImage(moved)), 0, 255).astype(np.uint8)
    # ITK maps points of the fixed image into the moving one; what is told is the motion of the image, its inverse.
    centre, angle = np.array(found.GetCenter()), -math.degrees(found.GetAngle())
    right, down = np.array(found.GetInverse().TransformPoint(centre.tolist())) - centre
    after = mutual_information(fixed, result)
    small = math.hypot(right, down) <= LARGEST_SHIFT * max(fixed.shape) and abs(angle) <= LARGEST_ANGLE
    accepted = bool(small and after > before * (1 + LEAST_GAIN))
    angle, right, down, before, after = (round(float(value), 4) for value in (angle, right, down, before, after))
    return result if accepted else moving, Motion(angle, right, down, before, after, accepted)


def mutual_information(a: Pixels, b: Pixels) -> float:
    """The mutual information of two images of one shape in bits, over grey levels in 32 bins."""
    joint = np.bincount((a.astype(np.intp) // 8 * _BINS + b // 8).ravel(), minlength=_BINS**2).reshape(_BINS, _BINS)
    return _entropy(joint.sum(0)) + _entropy(joint.sum(1)) - _entropy(joint)


def _entropy(counts: npt.NDArray[np.intp]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _search(sitk: Any, fixed: Any, moving: Any) -> Any:
    """The rigid transform of greatest mutual information near the identity, as ITK has it: fixed to moving points."""
    size = fixed.GetSize()
    start = sitk.Euler2DTransform()
    start.SetCenter([(side - 1) / 2 for side in size])
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)
    method.SetGlobalDefaultNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=100, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-8
    )
    # One unit of the angle moves the rim by a quarter of the side, one of the shift by a pixel.
    method.SetOptimizerScales([(max(size) / 4) ** 2, 1.0, 1.0])
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    # Unsmoothed, linear interpolation draws the optimum towards or away from whole pixels, by up to 1.6 of them.
    method.SetSmoothingSigmasPerLevel([2.0, 1.0, 1.0])
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    return start
