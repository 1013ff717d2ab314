"""Loss curves as inline SVG: two lines over the epochs, with axes, labels and the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 300, 210
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 10, 40


def draw_curve(title: str, rows: Sequence[tuple[int, float, float]]) -> dict[str, Any]:
    """A figure of (epoch, train, validation) rows: its `title`, `svg`, and the last `train` and `validation` values.

    The vertical axis is logarithmic (`log`) where every value is positive and they span more than a factor of ten.
    Values that are missing or not finite leave a gap. `svg` is None where nothing can be drawn.
    """
    lines = {
        "train": [(float(epoch), value) for epoch, value, _ in rows if _drawable(value)],
        "validation": [(float(epoch), value) for epoch, _, value in rows if _drawable(value)],
    }
    last = {name: f"{line[-1][1]:.3g}" if line else None for name, line in lines.items()}
    points = lines["train"] + lines["validation"]
    if not points:
        return {"title": title, "svg": None, "log": False, **last}
    low, high = min(value for _, value in points), max(value for _, value in points)
    log = low > 0 and high > 10 * low
    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    epochs = _epoch_ticks(int(min(epoch for epoch, _ in points)), int(max(epoch for epoch, _ in points)))

    flatten = math.log10 if log else float
    across = _scale(epochs[0], epochs[-1], LEFT, WIDTH - RIGHT)
    upward = _scale(flatten(min(ticks[0], low)), flatten(max(ticks[-1], high)), HEIGHT - BOTTOM, TOP)

    def place(epoch: float, value: float) -> tuple[float, float]:
        return across(epoch), upward(flatten(value))

    parts = [_rule(upward(flatten(tick)), f"{tick:.4g}") for tick in ticks]
    parts += [_text(across(epoch), HEIGHT - BOTTOM + 18, f"{epoch:g}") for epoch in epochs]
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "epoch"))
    parts.append(f'<g transform="rotate(-90)">{_text(-(TOP + HEIGHT - BOTTOM) / 2, 11, "loss")}</g>')
    parts += [_line(name, [place(*point) for point in line]) for name, line in lines.items()]
    label = f"{title} over the epochs. Last values: training {last['train']}, validation {last['validation']}."
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    return {"title": title, "svg": Markup(svg), "log": log, **last}


def _line(name: str, points: Sequence[tuple[float, float]]) -> str:
    """A line of the class `name`, or a dot where there is only one point to show."""
    if len(points) == 1:
        return f'<circle class="{name}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="4"/>'
    return f'<polyline class="{name}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _rule(y: float, text: str) -> str:
    line = f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(LEFT - 8, y + 4, text, "end")


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _drawable(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from zero or just below the lowest value to just above the highest, about five of them."""
    low = min(low, 0.0) if low < 0.5 * high else low
    step = _step((high - low) or abs(high) or 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, or 1, 2, 5 times them where the range is short, that lie within or next to the range."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1.0, 2.0, 5.0) if last - first <= 2 else (1.0,)
    every = max(1, (last - first) // 5)
    ticks = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) >= 2 else ticks


def _epoch_ticks(first: int, last: int) -> list[float]:
    step = max(1, round(_step(last - first or 1)))
    inner = [tick for tick in range(step, last, step) if first < tick and last - tick >= step / 2]
    return [float(tick) for tick in dict.fromkeys([first, *inner, last])]


def _step(span: float) -> float:
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * 0.999)
