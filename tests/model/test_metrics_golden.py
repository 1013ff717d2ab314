"""The measures on the real atlas: values of independent implementations, and the poster's row of published weights."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.images import read_grey
from model.metrics import MEASURES, measure
from model.network import FusionNetwork
from model.published import read_published
from model.splits import PAPER_TEST_PAIRS
from model.strategies import sfnn

# Under which key the golden values stand, and how near they must be: the FMI, FSIM and MS-SSIM of one side or the other
# are float32, sewar's VIF leaves rounding below zero in its variances, PSNR's input is float32 on both sides.
GOLDEN = {
    "psnr": ("psnr", 2e-6),
    "ssim": ("ssim_skimage", 1e-7),
    "ms_ssim": ("ms_ssim", 1e-6),
    "mi": ("mi", 1e-12),
    "nmi": ("nmi_uint8", 1e-12),
    "fmi_edge": ("fmi_edge", 1e-12),
    "fmi_gradient": ("fmi_gradient_noslip", 1e-6),
    "fmi_pixel": ("fmi_pixel_noslip", 1e-6),
    "fsim": ("fsim", 1e-6),
    "en": ("en", 1e-12),
    "sd": ("sd", 1e-9),
    "sf": ("sf", 1e-9),
    "ag": ("ag", 1e-9),
    "scd": ("scd", 1e-12),
    "vif": ("vif_p_sewar", 1e-8),
    "qabf": ("qabf", 1e-12),
}
BY_SOURCE = ("psnr", "ssim", "ms_ssim", "nmi", "fsim", "vif")


def mean_of(value: Any) -> Tensor:
    return value["mean"] if isinstance(value, dict) else value


@pytest.fixture(scope="module")
def golden(shared):
    values = json.loads((shared / "vectors" / "golden_metrics.json").read_text())["pairs"]
    names = list(values)
    a, b = (
        np.stack([np.array(Image.open(shared / f"atlas/CT-MRI/{kind}/{name}.png")) for name in names])
        for kind in ("CT", "MRI")
    )
    with np.load(shared / "vectors" / "reference_fused.npz") as published:
        reference = np.stack([published[name] for name in names])
    fused = {"reference": reference, "average": np.round((a.astype(float) + b) / 2), "max": np.maximum(a, b)}

    def floats(levels: np.ndarray) -> Tensor:
        return torch.from_numpy(levels[:, None].astype(np.float32) / 255)

    return values, floats(a), floats(b), {kind: floats(levels) for kind, levels in fused.items()}


@pytest.mark.parametrize("kind", ["reference", "average", "max"])
def test_values_of_independent_implementations(golden, kind):
    values, a, b, fusions = golden
    names, fused = list(values), fusions[kind]
    judged = measure(a, b, fused)
    assert list(judged) == list(GOLDEN)
    for name, (key, within) in GOLDEN.items():
        expected = torch.tensor([values[pair][kind][key] for pair in names], dtype=torch.float64)
        torch.testing.assert_close(
            mean_of(judged[name]), expected, rtol=0, atol=within, msg=lambda m, n=name: f"{n}: {m}"
        )
        if MEASURES[name].per_source:
            torch.testing.assert_close(judged[name]["sum"], 2 * judged[name]["mean"], rtol=1e-15, atol=0)
    # The field's VIF of a fusion is the sum over the sources.
    expected = torch.tensor([values[pair][kind]["vif"] for pair in names], dtype=torch.float64)
    torch.testing.assert_close(judged["vif"]["sum"], expected, rtol=0, atol=1e-8)


def test_values_against_either_source(golden):
    values, a, b, fusions = golden
    for name in BY_SOURCE:
        key, within = GOLDEN[name]
        for source, suffix in ((a, "ct"), (b, "mri")):
            expected = torch.tensor([v["reference"][f"{key}_{suffix}"] for v in values.values()], dtype=torch.float64)
            found = torch.cat(
                [
                    MEASURES[name].function(*pair)
                    for pair in zip(*(x.split(1) for x in (fusions["reference"], source)), strict=True)
                ]
            )
            torch.testing.assert_close(found, expected, rtol=0, atol=within)


def test_the_posters_fsim_of_an_independent_implementation(golden):
    values, a, b, fusions = golden
    for kind, fused in fusions.items():
        found = measure(a[::3], b[::3], fused[::3], ["fsim"], "poster")["fsim"]["mean"]
        expected = [v[kind]["fsim_reference"] for v in list(values.values())[::3]]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def literally_fused(network: FusionNetwork, a: Tensor, b: Tensor) -> Tensor:
    """By the decoder's own layers: EN counts how many floats differ, so it sees the rounding of the arithmetic too."""
    return network.decoder(sfnn(*(network.encoder(image, "image") for image in (a, b)))).clamp(0, 1)


def test_the_published_weights_reach_the_posters_row(shared):
    """Of "Ours", PSNR, SSIM, FMI, FSIM and EN; MI is the 4.451 that these weights give, not the 4.558 printed."""
    network = read_published(shared / "weights" / "dilran_published.safetensors").eval()
    a, b = (
        torch.stack([read_grey(shared / f"atlas/CT-MRI/{kind}/{name}.png") for name in PAPER_TEST_PAIRS])
        for kind in ("CT", "MRI")
    )
    fused = torch.cat([literally_fused(network, x, y) for x, y in zip(a.split(1), b.split(1), strict=True)])
    means = {name: float(mean_of(value).mean()) for name, value in measure(a, b, fused, protocol="poster").items()}
    row = {
        "psnr": pytest.approx(18.2565, abs=0.001),
        "ssim": pytest.approx(0.7400, abs=2e-4),
        "mi": pytest.approx(4.451, abs=0.002),
        "fmi": pytest.approx(0.8905, abs=5e-4),
        "fsim": pytest.approx(0.8290, abs=2e-4),
        "en": pytest.approx(9.8897, abs=0.02),
    }
    assert means == row
