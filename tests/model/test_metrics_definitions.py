"""The measures agree with slow implementations written from their definitions, and with other libraries."""

import io
import math
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve, correlate1d
from skimage.measure import shannon_entropy
from skimage.metrics import normalized_mutual_information, structural_similarity
from torch import Tensor

from model.metrics import (
    MEASURES,
    POSTER_MEASURES,
    average_gradient,
    correlation_of_differences,
    feature_similarity,
    fmi_edge,
    fmi_gradient,
    fmi_pixel,
    measure,
    ms_ssim,
    normalised_mutual_information,
    spatial_frequency,
    standard_deviation,
    visual_information_fidelity,
)
from model.metrics.features import edge_map

SEEDS = range(3)


def images(seed: int, height: int, width: int) -> list[np.ndarray]:
    """Two sources and a fusion, 8-bit: steps and ramps under grain, with black, flat and shared regions."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(3):
        image = generator.integers(0, 60, (height, width)) + np.add.outer(np.arange(height), 5 * np.arange(width)) % 90
        image[:, width // 2 :] += generator.integers(0, 90)
        image[height // 3 : height // 3 + 5, : width // 2] = generator.integers(0, 200)
        image[:4] = 0
        made.append(image)
    made[2][:, : width // 3] = made[0][:, : width // 3]
    return [image.astype(np.uint8) for image in made]


def tensor(levels: np.ndarray) -> Tensor:
    return torch.from_numpy(levels[None, None].astype(np.float32) / 255)


def fmi_by_hand(fused: np.ndarray, source: np.ndarray) -> float:
    height, width = fused.shape
    values = []
    for row, column in product(range(height - 2), range(width - 2)):
        f, s = (image[row : row + 3, column : column + 3].T.ravel().astype(float) for image in (fused, source))
        values.append(window_by_hand(f, s))
    return float(np.mean(values))


def window_by_hand(f: np.ndarray, s: np.ndarray) -> float:
    if (f == s).all():
        return 1.0
    flat = np.ptp(f) == 0, np.ptp(s) == 0
    if any(flat):
        return float(all(flat))
    p, q = ((w - w.min()) / (w - w.min()).sum() for w in (f, s))
    c = np.corrcoef(p, q)[0, 1]
    places = np.arange(1, 10)
    sd_p, sd_q = (math.sqrt((w * places**2).sum() - (w * places).sum() ** 2) for w in (p, q))
    above_p, above_q = np.append(0, np.cumsum(p)), np.append(0, np.cumsum(q))
    joint_above = np.zeros((10, 10))
    for i, j in product(range(10), range(10)):
        if c >= 0:
            joint_above[i, j] = min(above_p[i], above_q[j])
        else:
            joint_above[i, j] = max(above_p[i] + above_q[j] - 1, 0)
    bound = np.diff(np.diff(joint_above, axis=0), axis=1)
    covariance = (
        sum(bound[i, j] * places[i] * places[j] for i, j in product(range(9), range(9)))
        - (p * places).sum() * (q * places).sum()
    )
    share = c * sd_p * sd_q / covariance if abs(covariance) > 1e-12 else 0.0
    joint = share * bound + (1 - share) * np.outer(p, q)

    def entropy(shares: np.ndarray) -> float:
        return -sum(x * math.log2(abs(x)) for x in shares.ravel() if x != 0)

    both = entropy(p) + entropy(q)
    return 2 * (both - entropy(joint)) / both


def edges_by_hand(image: np.ndarray) -> np.ndarray:
    across = convolve(image.astype(int), np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]]), mode="nearest")
    down = convolve(image.astype(int), np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]]), mode="nearest")
    strength = across**2 + down**2
    framed = np.pad(strength, 1)
    edges = np.zeros(image.shape, dtype=int)
    for row, column in np.ndindex(*image.shape):
        here = strength[row, column]
        left, right = framed[row + 1, column], framed[row + 1, column + 2]
        above, below = framed[row, column + 1], framed[row + 2, column + 1]
        x, y = abs(across[row, column]), abs(down[row, column])
        crest = (x >= y and left <= here > right) or (y >= x and above <= here > below)
        edges[row, column] = here > 4 * strength.mean() and crest
    return edges


@pytest.mark.parametrize("seed", SEEDS)
def test_fmi_by_explicit_loops(seed):
    a, _, fused = images(seed, 13, 12)
    assert fmi_pixel(tensor(fused), tensor(a)).item() == pytest.approx(fmi_by_hand(fused, a), abs=1e-6)
    gradients = [np.gradient(image.astype(float), axis=1) for image in (fused, a)]
    assert fmi_gradient(tensor(fused), tensor(a)).item() == pytest.approx(fmi_by_hand(*gradients), abs=1e-6)
    edges = [edges_by_hand(image) for image in (fused, a)]
    assert all(map_.any() for map_ in edges)
    assert edge_map(tensor(a))[0, 0].numpy().tolist() == edges[1].astype(bool).tolist()
    assert fmi_edge(tensor(fused), tensor(a)).item() == pytest.approx(fmi_by_hand(*edges), abs=1e-12)


def test_opposed_windows_share_the_information_of_the_lower_bound():
    a = np.random.default_rng(0).integers(0, 256, (12, 12))
    assert fmi_pixel(tensor(255 - a), tensor(a)).item() == pytest.approx(fmi_by_hand(255 - a, a), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_statistics_by_numpy(seed):
    a, b, fused = images(seed, 19, 24)
    x, y, f = (image.astype(float) for image in (a, b, fused))
    assert standard_deviation(tensor(fused)).item() == pytest.approx(f.std())
    rows, columns = np.diff(f, axis=0), np.diff(f, axis=1)
    assert spatial_frequency(tensor(fused)).item() == pytest.approx(math.sqrt((rows**2).mean() + (columns**2).mean()))
    down, across = np.gradient(f)
    assert average_gradient(tensor(fused)).item() == pytest.approx(np.sqrt((down**2 + across**2) / 2).mean())
    expected = np.corrcoef((f - y).ravel(), x.ravel())[0, 1] + np.corrcoef((f - x).ravel(), y.ravel())[0, 1]
    assert correlation_of_differences(tensor(a), tensor(b), tensor(fused)).item() == pytest.approx(expected)


@pytest.mark.parametrize("levels", [2, 30, 101, 256])
def test_nmi_of_scikit_image_to_the_last_tie(levels):
    for seed in range(5):
        x, y = np.random.default_rng(seed).integers(0, levels, (2, 20, 21)).astype(np.uint8)
        expected = normalized_mutual_information(x, y, bins=100)
        assert normalised_mutual_information(tensor(x), tensor(y)).item() == pytest.approx(expected, abs=1e-12)


def test_ms_ssim_is_made_of_the_ssim_of_scikit_image():
    fused, a = (image / 255 for image in images(0, 176, 208)[1:])
    factors = []
    for scale in range(5):
        if scale:
            fused, a = (image.reshape(image.shape[0] // 2, 2, -1, 2).mean((1, 3)) for image in (fused, a))
        _, whole = structural_similarity(
            fused, a, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
        )
        mean_f, mean_a = gaussian(fused), gaussian(a)
        light = (2 * mean_f * mean_a + 1e-4) / (mean_f**2 + mean_a**2 + 1e-4)
        factors.append((whole / light)[5:-5, 5:-5].mean())
        last = whole[5:-5, 5:-5].mean()
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    expected = np.prod(np.array([*factors[:4], last]) ** weights)
    fused, a = (tensor(image) for image in images(0, 176, 208)[1:])
    assert ms_ssim(fused, a).item() == pytest.approx(expected, abs=1e-6)


def gaussian(image: np.ndarray, size: int = 11, sigma: float = 1.5) -> np.ndarray:
    taps = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    return correlate1d(correlate1d(image, taps, axis=0, mode="reflect"), taps, axis=1, mode="reflect")


def test_vif_by_regression_of_every_window():
    source, _, fused = (image.astype(float) for image in images(1, 47, 41))
    kept = shown = 0.0
    x, y = source, fused
    for size in (17, 9, 5, 3):
        offsets = np.arange(size) - size // 2
        window = np.exp(-np.add.outer(offsets**2, offsets**2) / (2 * (size / 5) ** 2))
        window /= window.sum()

        def everywhere(image: np.ndarray, size: int = size) -> np.ndarray:
            return np.lib.stride_tricks.sliding_window_view(image, (size, size))

        if size != 17:
            x, y = ((everywhere(image) * window).sum((2, 3))[::2, ::2] for image in (x, y))
        for u, v in zip(everywhere(x).reshape(-1, size, size), everywhere(y).reshape(-1, size, size), strict=True):
            mean_u, mean_v = (u * window).sum(), (v * window).sum()
            variance = (window * (u - mean_u) ** 2).sum()
            covariance = (window * (u - mean_u) * (v - mean_v)).sum()
            gain = max(covariance / variance, 0.0) if variance > 1e-9 else 0.0
            rest = (window * (v - mean_v) ** 2).sum() - gain * covariance
            kept += math.log(1 + gain**2 * variance / (rest + 2))
            shown += math.log(1 + variance / 2)
    found = visual_information_fidelity(tensor(images(1, 47, 41)[2]), tensor(images(1, 47, 41)[0])).item()
    assert found == pytest.approx(kept / shown, abs=1e-8)


def congruency_by_hand(image: np.ndarray) -> np.ndarray:
    """Phase congruency as the FSIM paper's authors have it, one filter at a time."""
    height, width = image.shape
    down, across = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    radius = np.hypot(down, across)
    lowpass = 1 / (1 + (radius / 0.45) ** 30)
    radius[0, 0] = 1
    energy, amplitude = np.zeros(image.shape), np.zeros(image.shape)
    for orientation in range(4):
        angle = orientation * np.pi / 4
        # The direction of a frequency, the first one pointing down.
        turn = np.abs(np.angle(np.exp(1j * (np.arctan2(-across, down) - angle))))
        spread = np.exp(-(turn**2) / (2 * (np.pi / 4 / 1.2) ** 2))
        filters, responses = [], []
        for scale in range(4):
            gabor = np.exp(-(np.log(radius * 6 * 2**scale) ** 2) / (2 * np.log(0.55) ** 2)) * lowpass * spread
            gabor[0, 0] = 0
            filters.append(gabor)
            responses.append(np.fft.ifft2(np.fft.fft2(image) * gabor))
        total = sum(responses)
        e, o = total.real / (abs(total) + 1e-7), total.imag / (abs(total) + 1e-7)
        along = sum(r.real * e + r.imag * o - abs(r.real * o - r.imag * e) for r in responses)
        power = np.sort(abs(responses[0]).ravel() ** 2)[(image.size - 1) // 2] / np.log(2) / (filters[0] ** 2).sum()
        kernels = [np.fft.ifft2(gabor).real * np.sqrt(image.size) for gabor in filters]
        squares = sum((kernel**2).sum() for kernel in kernels)
        products = sum((kernels[i] * kernels[j]).sum() for i in range(4) for j in range(i + 1, 4))
        tau = np.sqrt(power * (squares + 2 * products))
        threshold = tau * (np.sqrt(np.pi / 2) + 2 * np.sqrt(2 - np.pi / 2)) / 1.7
        energy += np.maximum(along - threshold, 0)
        amplitude += sum(abs(r) for r in responses)
    return energy / (amplitude + 1e-7)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (45, 52)])
def test_fsim_by_one_filter_at_a_time(height, width):
    a, _, fused = images(2, height, width)
    p, q = (congruency_by_hand(image.astype(float)) for image in (fused, a))
    scharr = np.array([[3, 10, 3], [0, 0, 0], [-3, -10, -3]]) / 16
    g, h = (
        np.hypot(
            convolve(image.astype(float), scharr, mode="constant"),
            convolve(image.astype(float), scharr.T, mode="constant"),
        )
        for image in (fused, a)
    )
    weight = np.maximum(p, q)
    likeness = (2 * p * q + 0.85) / (p**2 + q**2 + 0.85) * (2 * g * h + 160) / (g**2 + h**2 + 160)
    expected = (likeness * weight).sum() / weight.sum()
    assert feature_similarity(tensor(fused), tensor(a)).item() == pytest.approx(expected, abs=1e-6)


def test_fsim_sees_large_images_at_half_their_size():
    a, _, fused = (tensor(image) for image in images(0, 200, 192))
    twice = [image.repeat_interleave(2, -1).repeat_interleave(2, -2) for image in (fused, a)]
    assert feature_similarity(*twice).item() == pytest.approx(feature_similarity(fused, a).item(), abs=1e-9)


def test_what_the_poster_calls_en_and_mi():
    generator = np.random.default_rng(0)
    floats = generator.choice(generator.random(40).astype(np.float32), (24, 25))
    floats[:6] = 0
    a, b, fused = torch.zeros(1, 1, 24, 25), torch.ones(1, 1, 24, 25), torch.from_numpy(floats)[None, None]
    judged = measure(a, b, fused, ["mi", "en"], "poster")
    assert judged["en"].item() == pytest.approx(shannon_entropy(floats), abs=1e-12)
    stream = io.BytesIO()
    Image.fromarray(np.floor(floats * 255).astype(np.uint8)).save(stream, "JPEG", quality=75)
    assert judged["mi"].item() == pytest.approx(shannon_entropy(np.array(Image.open(stream))), abs=1e-12)
    assert measure(fused, fused, fused, ["mi"], "poster")["mi"].equal(judged["mi"])


def test_the_posters_fmi_is_of_jpeg_files():
    def stored(levels: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(levels).save(stream, "JPEG", quality=75)
        return np.array(Image.open(stream))

    a, _, fused = images(0, 40, 32)
    found = POSTER_MEASURES["fmi"].function(tensor(fused) + 0.9 / 255 * (tensor(fused) < 1), tensor(a)).item()
    assert found == pytest.approx(fmi_edge(tensor(stored(fused)), tensor(stored(a))).item(), abs=1e-12)
    assert found != MEASURES["fmi_edge"].function(tensor(fused), tensor(a)).item()


def test_the_posters_fsim_hardly_sees_gradients():
    a, _, fused = (tensor(image) for image in images(0, 64, 64))
    own = POSTER_MEASURES["fsim"].function
    assert own(a, a).item() == 1
    assert 0 < own(fused, a).item() < 1
    assert own(fused, a).item() == own(a, fused).item()
