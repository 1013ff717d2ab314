"""Look at pairs and what fuses them: one self-contained page, opened in the browser (`fusion view`)."""

import math
import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.evaluate.evaluation import parse_strategies
from components.evaluate.page import number, png, raised
from components.evaluate.viewer.scene import DEEPEST, Scene, Shown, Side, deep_png, render_viewer, share_address
from model.errors import InputError, unknown_choice
from model.fuser import Fuser
from model.images import join_colour, same_file, write_atomically
from model.methods import METHODS, Fuse, Resources, strategy_title
from model.metrics import MEASURES, measure
from model.shares import share_of_first
from pipelines.fuse import load_fuser, model_path
from pipelines.view_sources import Pair, Sources, levels_of, normalised, read_sources

MEASURED = ("qabf", "vif", "ssim")

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Network:
    """Which network fuses, as `fusion fuse` takes it; `strategies` is comma-separated, None for the model's own."""

    model: str | None = None
    strategies: str | None = None
    batchnorm: str | None = None


@dataclass(frozen=True, eq=False)
class _Contestants:
    """Everything that fuses: the network by its strategies, and other methods by name."""

    fuser: Fuser
    strategies: Sequence[str]
    others: dict[str, Fuse]

    @property
    def titles(self) -> list[tuple[str, str]]:
        ours = [(f"network {name}", f"Network, {strategy_title(name)}") for name in self.strategies]
        return [*ours, *((name, METHODS[name].title) for name in self.others)]

    def fuse(self, a: Tensor, b: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
        """The fused image (1, 1, H, W) of each by name, and the weight of `a` where the method decides it."""
        fused, shares = (each(a, b, self.strategies) for each in (self.fuser.fuse_each, self.fuser.share_each))
        done = {f"network {name}": (fused[name], shares.get(name)) for name in self.strategies}
        return done | {name: (fuse(a, b), share_of_first(fuse, a, b)) for name, fuse in self.others.items()}


def view(
    a: Path,
    b: Path,
    output: Path,
    network: Network,
    methods: str,
    runs: Path,
    most: int,
    window: str | None = None,
    keep_order: bool = False,
    progress: Tell = lambda *_: None,
) -> int:
    """Fuse what two paths lead to by every method and write the page `output`; returns how many pairs it shows.

    `methods` is comma-separated, of `model.methods`. Raises InputError for anything the user can mend.
    """
    _check_output(a, b, output)
    names = _method_names(methods)
    strategies = parse_strategies(network.strategies) if network.strategies is not None else None
    images_a_pair = 2 + 2 * (len(strategies or (None,)) + len(names))
    sources = read_sources(a, b, most, images_a_pair, window, keep_order)
    fuser = load_fuser(model_path(network.model, runs), strategies[0] if strategies else None, network.batchnorm)
    if fuser.config.levels:
        # Once for all methods, so that what is shown, fused, weighed and measured is the same.
        sources = normalised(sources, fuser.config.levels)
        fuser = Fuser(fuser.network, replace(fuser.config, levels=None))
    others = {name: METHODS[name].load(Resources()) for name in names}
    scene = _scene(sources, _Contestants(fuser, strategies or [fuser.strategy], others), progress)
    text = render_viewer(scene)
    write_atomically(output, lambda partial: partial.write_text(text, encoding="utf-8"))
    return len(scene.pairs)


def open_in_browser(page: Path) -> bool:
    """Open a page in the user's browser, if this session has a screen; whether it did."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        return webbrowser.open(page.resolve().as_uri())
    except webbrowser.Error:
        return False


def _check_output(a: Path, b: Path, output: Path) -> None:
    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{output} is to be a page; end its name in .html")
    if any(same_file(output, source) for source in (a, b)):
        raise InputError(f"{output} is one of the sources; name another file")
    if not output.parent.is_dir():
        raise InputError(f"cannot write {output}: there is no folder {output.parent}; make it, or choose another place")


def _method_names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in METHODS]:
        raise unknown_choice("method", unknown, METHODS)
    return names


def _scene(sources: Sources, contestants: _Contestants, progress: Tell) -> Scene:
    top = DEEPEST if sources.deep and all(pair.chroma is None for pair in sources.pairs) else 255
    pairs = []
    for done, pair in enumerate(sources.pairs):
        progress(done, len(sources.pairs))
        pairs.append(_shown(pair, contestants, top))
    progress(len(pairs), len(pairs))
    return Scene(
        title=sources.title,
        a=sources.sides[0],
        b=sources.sides[1],
        methods=contestants.titles,
        pairs=pairs,
        fused=Side("Fused", top, 0, top, "", 0, top),
        measures=[raised(MEASURES[name].title) for name in MEASURED],
        aspect=sources.aspect,
        millimetres=sources.millimetres,
        notes=sources.notes,
    )


def _shown(pair: Pair, contestants: _Contestants, top: int) -> Shown:
    fused, shares, values = {}, {}, {}
    for name, (image, share) in contestants.fuse(pair.a, pair.b).items():
        if not torch.isfinite(image).all():
            raise InputError(
                f"{dict(contestants.titles)[name]} gives values that are not finite, so its weights are useless; name "
                "another --model"
            )
        image = image.cpu().clamp(0, 1)
        coloured = image[0, 0] if pair.chroma is None else join_colour(image[0], pair.chroma).movedim(0, -1)
        fused[name] = _address(levels_of(coloured, top))
        values[name] = _measured(pair, image)
        if share is not None:
            shares[name] = share_address(share[0, 0].cpu().numpy())
    a, b = (_address(image) for image in pair.images)
    return Shown(pair.name, a, b, fused, shares, values)


def _address(levels: np.ndarray) -> str:
    return png(levels) if levels.dtype == "uint8" else deep_png(levels)


def _measured(pair: Pair, fused: Tensor) -> list[str]:
    """The measures of one fused image, ready to print; a dash for those that it is too small or too blank for."""
    possible = [name for name in MEASURED if min(fused.shape[-2:]) >= MEASURES[name].smallest]
    found = measure(pair.a, pair.b, fused.float(), possible)
    means = {name: value["mean"] if isinstance(value, dict) else value for name, value in found.items()}
    values = [float(means[name]) if name in means else math.nan for name in MEASURED]
    return [number(value, 3) if math.isfinite(value) else "\N{EN DASH}" for value in values]
