"""Elements of inline SVG, with every text and attribute escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

Child = Markup | str


def element(name: str, *children: Child, **attributes: str | float) -> Markup:
    """``<name …>children</name>``; ``class_`` is ``class``, other underscores are hyphens.

    Plain strings are escaped, `Markup` is not; numbers are written with two decimals at most.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(_attribute_name(key), _value(value))
        for key, value in attributes.items()
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inner)


def figure(width: float, height: float, title: str, *children: Child) -> Markup:
    """An ``svg`` that scales with its column and says in ``title`` what it shows."""
    return element(
        "svg", element("title", title), *children,
        viewBox=f"0 0 {_value(width)} {_value(height)}", role="img",
    )  # fmt: skip


def label(text: str, x: float, y: float, *, anchor: str = "middle", kind: str = "") -> Markup:
    """One line of text with its baseline at ``y``."""
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=f"label {kind}".strip())


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of class ``kind``."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within [``low``, ``high``], at most about ``most``."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / most
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(s for s in (1 * scale, 2 * scale, 5 * scale, 10 * scale) if s >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """The tick labels, all with as many decimals as their step needs."""
    if len(values) < 2:
        return [f"{value:.4g}" for value in values]
    step = values[1] - values[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 6 or abs(values[-1]) >= 1e6:
        return [f"{value:.3g}" for value in values]
    return [f"{value + 0.0:.{decimals}f}" for value in values]


def _attribute_name(key: str) -> str:
    if key in ("viewBox", "patternUnits", "patternTransform"):
        return key
    return key.rstrip("_").replace("_", "-")


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
