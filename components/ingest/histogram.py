"""Grey-level histograms of a collection's modalities as inline SVG, in the page's own colours."""

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 44
# Images that once had a palette use few levels, whose histogram level by level is a comb; a bin takes eight.
BIN = 8
_DECADES = 3


def draw_histogram(counts: Mapping[str, np.ndarray]) -> Markup:
    """Draw luma counts (256,) of each modality as shares of its pixels that are not black, from 0.1 % to 100 %."""
    parts = []
    for decade in range(_DECADES + 1):
        y = _y(10.0**-decade)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * 10.0**-decade:g} %</text>')
    below = HEIGHT - BOTTOM + 18
    parts += [f'<text x="{_x(x):.1f}" y="{below}" text-anchor="middle">{x}</text>' for x in (0, 64, 128, 192, 256)]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">grey level (of colour the luma)</text>')
    for place, (modality, values) in enumerate(counts.items()):
        parts.append(f'<path class="m{place}" d="{_steps(values)}"><title>{escape(modality)}</title></path>')
    label = f"Share of the pixels that are not black in bins of {BIN} grey levels: {' and '.join(counts)}."
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    return Markup(svg)


def _steps(values: np.ndarray) -> str:
    """The outline of the histogram as an SVG path."""
    lit = np.concatenate(([0], values[1:]))
    shares = lit.reshape(-1, BIN).sum(axis=1) / max(1, int(lit.sum()))
    moves = (f"V{_y(float(share)):.1f}H{_x((place + 1) * BIN):.1f}" for place, share in enumerate(shares))
    return f"M{_x(0):.1f} {_y(0):.1f}{''.join(moves)}V{_y(0):.1f}"


def _x(level: float) -> float:
    return LEFT + level / 256 * (WIDTH - RIGHT - LEFT)


def _y(share: float) -> float:
    decades = -np.log10(max(share, 10.0**-_DECADES))
    return float(TOP + decades / _DECADES * (HEIGHT - BOTTOM - TOP))
