"""What the pages of this step share: their templates, and how numbers, measures and images are shown in them."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

ARROWS = {"higher": ("\N{UPWARDS ARROW}", "higher is better"), "lower": ("\N{DOWNWARDS ARROW}", "lower is better")}


def render(template: str, *folders: Path, **values: Any) -> str:
    """A page as HTML text that loads nothing from anywhere; the same input gives the same text.

    The template lies in this folder or one of `folders`.
    """
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, *folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(count=counted, **values)


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 pair, 2 pairs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def number(value: float, decimals: int, sign: bool = False) -> str:
    """A number with a true minus sign."""
    return f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def raised(title: str) -> Markup:
    """A measure's title with what follows a caret raised: Q^AB/F."""
    return Markup(re.sub(r"\^(\S+)", r"<sup>\1</sup>", str(escape(title))))


def png(image: np.ndarray) -> str:
    """A uint8 image, grey (H, W) or RGB (H, W, 3), as an address that holds it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
