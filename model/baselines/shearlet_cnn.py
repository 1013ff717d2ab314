"""Fusion in the shearlet domain, its high bands compared by a small Siamese convolutional network.

Source: Hermessi, Mourali, Zagrouba, "Convolutional neural network-based multimodal image fusion via similarity
learning in the shearlet domain", Neural Computing and Applications 30, 2018. No code of it is public. What is told of
it (also in the review in Signal Processing 183:108036, 2021) is kept: a non-subsampled shearlet transform; local energy
for the low bands; for the high bands the normalised cross-correlation of the feature maps of a Siamese fully
convolutional network, pre-trained on natural images and fine-tuned by logistic loss on positive and negative patch
pairs of coefficients.

Inferred here, because it is nowhere told: the transform's levels and directions; the network's layers, which have no
biases so that its features scale with the coefficients and vanish where they do; the windows; that the local energies
weigh the low bands; and that similarity and activity decide together on the high bands, as match and salience
do for Burt and Kolczynski ("Enhanced image capture through fusion", ICCV 1993): where the sources look alike, their
mean weighed by activity, else the coefficient of the more active source. How patch pairs are drawn is told in
`model.baselines.shearlet_training`. The figures of this reconstruction are its own, not those of the paper.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from model.baselines.shearlet import DIRECTIONS, ShearletTransform
from model.errors import InputError, MissingWeights
from model.fuser import CONFIG_FILE, WEIGHTS_FILE, check_pair

Fuse = Callable[[Tensor, Tensor], Tensor]

NETWORK = "shearlet-cnn"
CHANNELS = 16
LAYERS = 3
WINDOW = 7
ACTIVITY_WINDOW = 3
LOW_WINDOW = 15
MARGIN = LAYERS + WINDOW // 2
"""How far, in samples, a similarity looks to each side: a patch of 2 MARGIN + 1 gives one."""
_TINY = 1e-12


class SiameseNetwork(nn.Module):
    """Three 3x3 convolutions without biases (4,752 parameters), and the scale and offset of the similarity's logit.

    Both sources go through the same convolutions. Nothing is padded: features are 2 LAYERS smaller than their input.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (1, *[CHANNELS] * LAYERS)
        self.layers = nn.ModuleList([nn.Conv2d(m, n, 3, bias=False) for m, n in pairwise(widths)])
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def features(self, band: Tensor) -> Tensor:
        """The features (N, 16, H - 6, W - 6) of coefficients (N, 1, H, W); k > 0 times these give k times those."""
        x = band
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)  # type: ignore[no-any-return]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The logit (N, 1, H - 12, W - 12), at each place, of two sources showing the same structure.

        It rises with the normalised cross-correlation of their features over all channels and a 7x7 window.
        """
        return self.logit(self.features(a), self.features(b))

    def logit(self, a: Tensor, b: Tensor) -> Tensor:
        """The logit of two features (N, 16, H, W), of shape (N, 1, H - 6, W - 6)."""
        product, energy_a, energy_b = (
            F.avg_pool2d((p * q).sum(1, keepdim=True), WINDOW, 1) for p, q in ((a, b), (a, a), (b, b))
        )
        # Rooted one by one: the product of two small energies would underflow.
        correlation = product / (energy_a + _TINY).sqrt() / (energy_b + _TINY).sqrt()
        return self.scale * correlation + self.offset


@dataclass(frozen=True)
class ShearletCnnConfig:
    """What `config.json` says of a trained network: its name and the transform that its patches came from."""

    network: str = NETWORK
    directions: tuple[int, ...] = DIRECTIONS

    @property
    def transform(self) -> ShearletTransform:
        """The shearlet transform."""
        return ShearletTransform(self.directions)


class ShearletCnn:
    """Fuses pairs of grey images band by band in the shearlet domain."""

    def __init__(self, network: SiameseNetwork, config: ShearletCnnConfig | None = None, device: str = "cpu") -> None:
        self.config = config or ShearletCnnConfig()
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse pairs: two (N, 1, H, W) in [0, 1], of any size, to one, clamped to [0, 1], on the network's device.

        The images are continued by their border's pixels before the transform, which is circular. Pairs are fused one
        after another and band by band, so that memory does not grow with either number. Raises InputError if the
        shapes differ or a pixel is not finite.
        """
        check_pair(a, b)
        return torch.cat([self._fuse_pair(a[i : i + 1], b[i : i + 1]) for i in range(len(a))])

    def _fuse_pair(self, a: Tensor, b: Tensor) -> Tensor:
        height, width = a.shape[-2:]
        transform, levels = self.config.transform, len(self.config.directions)
        # Decisions of the coarsest level stand up to one step outside the image and look MARGIN + 1 steps further.
        border = max(transform.reach, (MARGIN + 2) * 2 ** (levels - 1))
        both = F.pad(torch.cat([a, b]).to(self.device, torch.float32), (border,) * 4, mode="replicate")
        bands, inside = transform.bands(both), (slice(border, border + height), slice(border, border + width))
        fused = fuse_low(next(bands))[..., *inside]
        for level, band in zip(transform.levels, bands, strict=True):
            weight = self._weight(band, border, 2**level)[..., :height, :width]
            first, second = band[..., *inside].chunk(2)
            fused += second + weight * (first - second)
        return fused.clamp(0, 1)

    def _weight(self, band: Tensor, border: int, step: int) -> Tensor:
        """The weight of the first source at each pixel, and a few beyond, of one band (2, 1, H, W) of both sources.

        It is decided at every `step`-th pixel, from every `step`-th coefficient, smoothed over 3x3 decisions so that
        neighbours agree, and interpolated in between: the network sees a structure of any scale at the same size.
        """
        margin = (MARGIN + 1) * step
        start = border - margin
        rows, columns = (border + -(-(side - 2 * border - 1) // step) * step + margin + 1 for side in band.shape[-2:])
        features = self.network.features(band[..., start:rows:step, start:columns:step])
        alike = self.network.logit(*features.chunk(2)).sigmoid()
        trim = (WINDOW - ACTIVITY_WINDOW) // 2
        energy = (features**2).sum(1, keepdim=True)[..., trim : -trim or None, trim : -trim or None]
        active = F.avg_pool2d(energy, ACTIVITY_WINDOW, 1)
        weight = F.avg_pool2d(fuse_weight(alike, *active.chunk(2)), 3, 1)
        if step == 1:
            return weight
        size = [step * (side - 1) + 1 for side in weight.shape[-2:]]
        return F.interpolate(weight, size=size, mode="bilinear", align_corners=True)


def fuse_weight(alike: Tensor, active_a: Tensor, active_b: Tensor) -> Tensor:
    """The weight of source a: by activity where the sources are alike (1), all to the more active where not (0)."""
    shared = active_a / (active_a + active_b).clamp(min=_TINY)
    chosen = (torch.sign(active_a - active_b) + 1) / 2
    return torch.where(active_a == active_b, 0.5, alike * shared + (1 - alike) * chosen)


def fuse_low(low: Tensor) -> Tensor:
    """The low bands (2, 1, H, W) of both sources, weighed by their energy in a 15x15 window, as one (1, 1, H, W)."""
    padded = F.pad(low**2, (LOW_WINDOW // 2,) * 4, mode="replicate")
    first, second = F.avg_pool2d(padded, LOW_WINDOW, 1).chunk(2)
    weight = torch.where(first == second, 0.5, first / (first + second).clamp(min=_TINY))
    a, b = low.chunk(2)
    fused: Tensor = b + weight * (a - b)
    return fused


def save_shearlet_cnn(network: SiameseNetwork, config: ShearletCnnConfig, folder: Path) -> None:
    """Write the model folder; the same network and configuration give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in network.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=2) + "\n")


def load_shearlet_cnn(folder: Path, device: str = "cpu") -> Fuse:
    """The fusion by the network in a model folder, which `model.baselines.shearlet_training` writes.

    Raises MissingWeights if the folder holds none, and InputError if it is damaged or of another architecture.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise MissingWeights(
                f"{folder} holds no shearlet network: {name} is missing; train one by"
                f" `python -m model.baselines.shearlet_training PACKED -o {folder}`"
            )
    network = SiameseNetwork()
    try:
        saved = json.loads((folder / CONFIG_FILE).read_text())
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder} holds a damaged shearlet network ({error}); train or fetch it again") from None
    except RuntimeError:
        raise InputError(
            f"{folder / WEIGHTS_FILE} holds the weights of another architecture; train or fetch a shearlet network"
        ) from None
    return ShearletCnn(network, _config(saved, folder / CONFIG_FILE), device).fuse


def _config(saved: object, path: Path) -> ShearletCnnConfig:
    if isinstance(saved, dict) and set(saved) == {"network", "directions"} and saved["network"] == NETWORK:
        directions = saved["directions"]
        if isinstance(directions, list) and directions and all(type(n) is int and n > 1 for n in directions):
            return ShearletCnnConfig(directions=tuple(directions))
    raise InputError(f"{path} is not the configuration of a shearlet network; train or fetch one")
