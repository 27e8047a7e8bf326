"""Elements and axes of charts as inline SVG, without scripts, fonts or requests.

A chart is a string. Colours are CSS variables of the embedding page (`--c0` .. `--c5`
for series, `--ink`, `--muted`, `--grid`), so that charts follow light and dark themes.
Every mark has a `<title>`, which browsers show on hover.
"""

import dataclasses
import html
import math
from collections.abc import Callable, Sequence

WIDTH = 460


def number(value: float | None, digits: int = 2) -> str:
    """Number with fixed digits, a dash for None."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.{digits}f}"


def tag(_name: str, _content: str = "", **attributes) -> str:
    """SVG element; underscores in attribute names become hyphens."""
    text = "".join(
        f' {k.rstrip("_").replace("_", "-")}="{html.escape(_plain(v))}"'
        for k, v in attributes.items()
        if v is not None
    )
    return f"<{_name}{text}>{_content}</{_name}>" if _content else f"<{_name}{text}/>"


def _plain(value) -> str:
    return (
        f"{value:.2f}".rstrip("0").rstrip(".")
        if isinstance(value, float)
        else str(value)
    )


def label(x: float, y: float, text: str, kind: str = "tick", anchor="middle") -> str:
    """A line of text; `kind` is its CSS class."""
    return tag("text", html.escape(text), x=x, y=y, class_=kind, text_anchor=anchor)


def line(x1: float, x2: float, y1: float, y2: float, kind: str) -> str:
    """A straight line; `kind` is its CSS class."""
    return tag("line", x1=x1, x2=x2, y1=y1, y2=y2, class_=kind)


def hover(text: str) -> str:
    return tag("title", html.escape(text))


@dataclasses.dataclass(frozen=True)
class Axes:
    """Linear map from a rectangle of values to a rectangle of the chart.

    Attributes:
      x_range, y_range: values at the edges.
      width, height: size of the whole chart in CSS pixels.
      left, right, top, bottom: margins.
    """

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: float = WIDTH
    height: float = 320
    left: float = 56
    right: float = 16
    top: float = 14
    bottom: float = 46

    def x(self, value: float) -> float:
        low, high = self.x_range
        share = (value - low) / (high - low)
        return self.left + share * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        share = (value - low) / (high - low)
        return (
            self.height - self.bottom - share * (self.height - self.top - self.bottom)
        )

    def frame(
        self,
        x_label: str,
        y_label: str,
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
        x_format: Callable[[float], str] = lambda v: f"{v:g}",
        y_format: Callable[[float], str] = lambda v: f"{v:g}",
    ) -> str:
        """Grid, ticks and labels of the axes."""
        parts = []
        bottom, left = self.height - self.bottom, self.left
        for v in ticks(*self.y_range) if y_ticks is None else y_ticks:
            y = self.y(v)
            parts.append(line(left, self.width - self.right, y, y, "grid"))
            parts.append(label(left - 8, y + 4, y_format(v), anchor="end"))
        for v in ticks(*self.x_range) if x_ticks is None else x_ticks:
            x = self.x(v)
            parts.append(line(x, x, bottom, bottom + 4, "axis"))
            parts.append(label(x, bottom + 18, x_format(v)))
        parts.append(line(left, self.width - self.right, bottom, bottom, "axis"))
        middle = (left + self.width - self.right) / 2
        parts.append(label(middle, self.height - 8, x_label, "name"))
        if y_label:
            y = (self.top + bottom) / 2
            parts.append(
                tag("text", html.escape(y_label), class_="name", text_anchor="middle",
                    transform=f"translate(14 {y:.1f}) rotate(-90)")
            )  # fmt: skip
        return "".join(parts)

    def upright(self, value: float, kind: str) -> str:
        """Vertical line at a value of x."""
        x = self.x(value)
        return line(x, x, self.top, self.height - self.bottom, kind)

    def legend(self, names: Sequence[str]) -> str:
        """Dots in the colours of the series, with their names."""
        parts, x = [], self.left
        for i, name in enumerate(names):
            colour = f"fill:var(--c{i % 6})"
            parts.append(tag("circle", cx=x + 6, cy=14, r=5, style=colour))
            parts.append(label(x + 16, 18, name, "tick", "start"))
            x += 34 + 6.6 * len(name)
        return "".join(parts)

    def page(self, content: str, name: str) -> str:
        """Finished chart; `name` is its label for screen readers."""
        return tag(
            "svg",
            content,
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="img",
            aria_label=name,
            class_="chart",
        )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside [low, high], about `count` of them."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= min(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Range of the values with a margin; never empty."""
    low, high = min(values), max(values)
    air = (high - low) * share or max(abs(low) * share, 0.5)
    return low - air, high + air
