"""The charts of the report: bars with intervals, curves, reliability, dots, counts.

Each function returns one `<svg>` as text; axes and marks are in `svg`.
"""

import math
from collections.abc import Sequence

from scipy import stats

from swm_jax.eval.report.svg import WIDTH, Axes, hover, label, line, padded, tag, ticks


def bars(
    groups: Sequence[tuple[str, Sequence[dict]]],
    name: str,
    x_label: str = "",
    reference: tuple[float, str] | None = None,
    width: float = WIDTH,
) -> str:
    """Horizontal bars over [0, 1] in named groups.

    Args:
      groups: (name of the group, its bars); a bar is {"label", "value", "colour"
        (index of the series), "text"} and may hold "interval" (low, high) and
        "mark" (a tick across the bar, such as a majority rate).
      reference: (value, label), a dashed line through all groups.
    """
    row, gap, head = 22, 12, 22
    height = sum(head + row * len(group) + gap for _, group in groups) + 58
    axes = Axes((0.0, 1.0), (0.0, 1.0), width, height, left=160, right=84, top=6)
    percent = lambda v: f"{100 * v:.0f} %"
    parts, y = [], axes.top
    quarter = (0.0, 0.25, 0.5, 0.75, 1.0)
    parts += [axes.upright(v, "grid") for v in quarter]
    for group_name, group in groups:
        parts.append(label(8, y + 15, group_name, "group", "start"))
        y += head
        for bar in group:
            value = bar["value"]
            title = hover(f"{group_name} · {bar['label']}: {bar['text']}")
            parts.append(label(axes.left - 8, y + 14, bar["label"], "tick", "end"))
            width = max(axes.x(value) - axes.x(0.0), 1.5)
            parts.append(
                tag("rect", title, x=axes.left, y=y + 3.0, width=width, height=row - 6,
                    rx=2, style=f"fill:var(--c{bar['colour']})")
            )  # fmt: skip
            if "mark" in bar:
                x = axes.x(bar["mark"])
                parts.append(line(x, x, y + 1, y + row - 1, "mark"))
            if bar.get("interval"):
                low, high = map(axes.x, bar["interval"])
                middle = y + row / 2
                parts.append(line(low, high, middle, middle, "whisker"))
                for x in (low, high):
                    parts.append(line(x, x, middle - 4, middle + 4, "whisker"))
            parts.append(label(axes.width - 76, y + 15, bar["text"], "value", "start"))
            y += row
        y += gap
    if reference:
        parts.append(axes.upright(reference[0], "dash"))
    base = height - axes.bottom
    for v in quarter:
        parts.append(label(axes.x(v), base + 18, percent(v)))
    note = f"{x_label} · dashed: {reference[1]}" if reference else x_label
    parts.append(
        label((axes.left + axes.width - axes.right) / 2, height - 8, note, "name")
    )
    return axes.page("".join(parts), name)


def lines(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    name: str,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Curves with a legend; a series is (name, x, y); NaNs break the line."""
    points = [
        (label_, [(x, y) for x, y in zip(xs, ys) if y is not None and math.isfinite(y)])
        for label_, xs, ys in series
    ]
    points = [(label_, p) for label_, p in points if p]
    if not points:
        return ""
    every = [xy for _, p in points for xy in p]
    low, high = min(x for x, _ in every), max(x for x, _ in every)
    axes = Axes(
        (low, high if high > low else low + 1),
        y_range or padded([y for _, y in every]),
        top=32,
    )
    short = lambda v: f"{v / 1000:g}k" if abs(v) >= 1000 else f"{v:g}"
    parts = [axes.frame(x_label, y_label, x_format=short)]
    x_legend = axes.left
    for i, (label_, p) in enumerate(points):
        path = " ".join(
            f"{'ML'[k > 0]}{axes.x(x):.1f} {axes.y(y):.1f}"
            for k, (x, y) in enumerate(p)
        )
        colour = f"stroke:var(--c{i % 6})"
        parts.append(tag("path", hover(label_), d=path, class_="line", style=colour))
        start, end = x_legend, x_legend + 18
        line = tag("line", x1=start, x2=end, y1=14, y2=14, class_="line", style=colour)
        parts.append(line)
        parts.append(label(x_legend + 24, 18, label_, "tick", "start"))
        x_legend += 44 + 6.6 * len(label_)
    return axes.page("".join(parts), name)


def reliability(before: dict, after: dict, name: str) -> str:
    """Reliability diagram: predicted against observed, dot area by number of answers.

    Args:
      before, after: results of `statistics.reliability` without and with temperature.
    """
    axes = Axes((0.0, 1.0), (0.0, 1.0), width=420, height=400, top=32)
    fifth = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    short = lambda v: f"{v:.1f}"
    parts = [
        axes.frame("said: p(yes)", "seen: share of yes", fifth, fifth, short, short)
    ]
    ends = axes.x(0.0), axes.x(1.0), axes.y(0.0), axes.y(1.0)
    parts.append(line(*ends, "dash"))
    for i, (what, curve) in enumerate((("as it speaks", before), ("tempered", after))):
        bins = curve["bins"]
        total = sum(b["count"] for b in bins)
        spots = [(axes.x(b["mean_probability"]), axes.y(b["frequency"])) for b in bins]
        path = " ".join(
            f"{'ML'[k > 0]}{x:.1f} {y:.1f}" for k, (x, y) in enumerate(spots)
        )
        colour = f"var(--c{i})"
        parts.append(tag("path", d=path, class_="line", style=f"stroke:{colour}"))
        for (x, y), b in zip(spots, bins):
            title = hover(
                f"{what}: said {b['mean_probability']:.2f}, seen {b['frequency']:.2f}, "
                f"{b['count']} answers"
            )
            radius = 2.5 + 9.0 * math.sqrt(b["count"] / total)
            parts.append(
                tag("circle", title, cx=x, cy=y, r=radius, class_="dot",
                    style=f"fill:{colour}")
            )  # fmt: skip
        x = axes.left + 175 * i
        parts.append(tag("circle", cx=x + 6, cy=14, r=5, style=f"fill:{colour}"))
        parts.append(
            label(x + 18, 18, f"{what}, ECE {curve['ece']:.3f}", "tick", "start")
        )
    return axes.page("".join(parts), name)


def scatter(
    groups: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    name: str,
    x_label: str,
    y_label: str,
) -> str:
    """Dots of a few groups, a colour each."""
    every_x = [x for _, xs, _ in groups for x in xs]
    every_y = [y for _, _, ys in groups for y in ys]
    if not every_x:
        return ""
    axes = Axes(padded(every_x), padded(every_y), width=420, height=400, top=32)
    names = [what for what, _, _ in groups]
    parts = [axes.frame(x_label, y_label), axes.legend(names)]
    for i, (what, xs, ys) in enumerate(groups):
        colour = f"fill:var(--c{i % 6})"
        for x, y in zip(xs, ys):
            title = hover(f"{what}: {x:.3f}, {y:.3f}")
            parts.append(
                tag("circle", title, cx=axes.x(x), cy=axes.y(y), r=3.2, class_="dot",
                    style=colour)
            )  # fmt: skip
    return axes.page("".join(parts), name)


def histogram(
    groups: Sequence[tuple[str, Sequence[float]]],
    name: str,
    x_label: str,
    x_range: tuple[float, float] = (-1.0, 1.0),
    bins: int = 20,
) -> str:
    """Counts stacked over groups."""
    low, high = x_range
    counts = [[0] * bins for _ in groups]
    for i, (_, values) in enumerate(groups):
        for v in values:
            counts[i][min(int((v - low) / (high - low) * bins), bins - 1)] += 1
    top = max((sum(column) for column in zip(*counts)), default=0)
    axes = Axes(x_range, (0.0, max(top, 1) * 1.08), height=260, top=32)
    whole = [v for v in ticks(0.0, max(top, 1) * 1.08) if v == int(v)]
    names = [what for what, _ in groups]
    parts = [axes.frame(x_label, "scenes", y_ticks=whole), axes.legend(names)]
    base = [0] * bins
    for i, (what, _) in enumerate(groups):
        colour = f"fill:var(--c{i % 6})"
        for b, count in enumerate(counts[i]):
            if not count:
                continue
            edge = low + (high - low) * b / bins
            x, y = axes.x(edge), axes.y(base[b] + count)
            width = axes.x(edge + (high - low) / bins) - x - 1.0
            title = hover(f"{what}: {count} scenes")
            parts.append(
                tag("rect", title, x=x, y=y, width=width,
                    height=axes.y(base[b]) - y, style=colour)
            )  # fmt: skip
            base[b] += count
    parts.append(axes.upright(0.0, "dash"))
    return axes.page("".join(parts), name)


def ranks01(values: Sequence[float]) -> list[float]:
    """Ranks scaled to (0, 1], for charts of values without a common unit."""
    return (stats.rankdata(values) / max(len(values), 1)).tolist()
