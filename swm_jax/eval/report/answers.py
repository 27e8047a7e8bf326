"""Sections of the report about answers: accuracy, calibration, sensitivity, curves.

Each function takes its section of results.json and returns HTML, or "" without data.
"""

import html
from collections.abc import Mapping

from swm_jax.eval.report import charts
from swm_jax.eval.report.page import display, percent, section, table
from swm_jax.eval.report.svg import number


def questions(qa: Mapping | None) -> str:
    if not qa:
        return ""
    bars = [
        {
            "label": display(name),
            "value": row["balanced_accuracy"],
            "mark": row["question_horizon_only"],
            "interval": row.get("interval95"),
            "colour": 0,
            "text": f"{percent(row['balanced_accuracy'])} of {row['queries']}",
        }
        for name, row in qa["per_type"].items()
        if row["balanced_accuracy"] is not None
    ]
    probes = [
        ("the model", "balanced_accuracy", 0, "image, actions, question, horizon"),
        ("no action", "no_action", 4, "the same model told that the peg stands still"),
        ("other image", "other_image", 5, "the same model shown another scene"),
        ("question alone", "question_horizon_only", 3,
         "a table of how often each question at each horizon is a yes"),
    ]  # fmt: skip
    probe_bars = [
        {"label": name, "value": qa[key], "colour": colour, "text": percent(qa[key])}
        for name, key, colour, _ in probes
        if qa.get(key) is not None
    ]
    charts_ = (
        charts.bars([("by question type", bars)], "accuracy by question type",
                    "tick: question and horizon alone",
                    (0.5, "guessing")),
        charts.bars([("what the answer rests on", probe_bars)], "shortcuts",
                    "balanced accuracy", (0.5, "guessing")),
    )  # fmt: skip
    notes = "".join(
        f"<li><b>{name}</b>: {html.escape(text)}</li>"
        for name, key, _, text in probes
        if qa.get(key) is not None
    )
    horizons = table(
        ["horizon", *qa["by_horizon"]],
        [["balanced accuracy", *map(percent, qa["by_horizon"].values())]],
    )
    return section(
        "Answers",
        f"{qa['queries']} questions about {qa['episodes']} held-out episodes "
        f"({html.escape(qa['source'])}), as many yes as no in every type and horizon. "
        f"{qa.get('types_above_majority', '-')} of {len(qa['per_type'])} types are "
        "above guessing by their whole 95 % interval (bootstrap over episodes).",
        f"<div class='pair'><div>{charts_[0]}</div><div>{charts_[1]}"
        f"<ul class='note'>{notes}</ul></div></div>",
        horizons,
    )


def calibration(qa: Mapping | None) -> str:
    if not qa or not qa.get("calibration"):
        return ""
    c = qa["calibration"]
    temperature = c["temperature"]
    rows = [
        [
            "expected calibration error",
            number(c["before"]["ece"], 3),
            number(c["after"]["ece"], 3),
        ],
        [
            "log loss, nats",
            number(c["log_loss_before"], 3),
            number(c["log_loss_after"], 3),
        ],
        ["mean p(yes) said", number(c.get("share_yes_said")), ""],
        ["share of yes seen", number(c.get("share_yes_seen")), ""],
    ]
    text = (
        f"Dividing the logits by {temperature:.2f} fits best: {_verdict(temperature)}"
    )
    return section(
        "Calibration",
        "Where p(yes) was said, how often was it yes? Fitted on one half of the "
        "episodes, shown on the other. A dot is as large as its share of the answers.",
        "<div class='pair'><div>",
        charts.reliability(c["before"], c["after"], "reliability diagram"),
        f"</div><div><h3>Temperature {temperature:.2f}</h3><p class='note'>{text}</p>",
        table(["", "as it speaks", "tempered"], rows),
        "</div></div>",
    )


def _verdict(temperature: float) -> str:
    if abs(temperature - 1.0) < 0.05:
        return "no scale would make it better; what is off is off in one direction."
    return f"the model is too {'sure of itself' if temperature > 1 else 'shy'}."


def sensitivity(s: Mapping | None) -> str:
    if not s:
        return ""
    groups = [(display(task), row["rho"]) for task, row in s["per_task"].items()]
    dots = [
        (display(e["task"]), charts.ranks01(e["true"]), charts.ranks01(e["predicted"]))
        for e in s["examples"]
    ]
    rows_ = table(
        ["task", "mean", "95 % interval", "scenes"],
        [
            [
                display(task),
                number(row["mean"]),
                f"{number(row['interval95'][0])} to {number(row['interval95'][1])}",
                str(len(row["rho"])),
            ]
            for task, row in s["per_task"].items()
        ],
    )
    return section(
        "Does the score move when the action moves?",
        f"In each of {s['scenes']} scenes {s['candidates']} action chunks are valued "
        "by the model and by the simulator; 1 is the same ranking, 0 is what a model "
        "that judges from the frame alone would get.",
        "<div class='pair'><div>",
        charts.histogram(groups, "rank correlation per scene",
                         "rank correlation in a scene"),
        rows_,
        "</div><div>",
        charts.scatter(dots, "predicted against true rank", "true rank in its scene",
                       "predicted rank"),
        "<p class='note'>One scene per task, the one nearest to the task's mean.</p>"
        "</div></div>",
    )  # fmt: skip


def training(rows: list[dict]) -> str:
    """Training curves from the metrics log of the checkpoint's run."""
    parts = []
    for name, keys in (
        ("loss", ("loss", "validation/loss", "dense_loss")),
        ("accuracy", ("accuracy", "validation/accuracy", "dense_accuracy")),
    ):
        known: dict[str, list[tuple[float, float]]]
        known = {k: [(r["step"], r[k]) for r in rows if r.get(k) is not None]
                 for k in keys}  # fmt: skip
        series = [
            (k, [x for x, _ in points], [y for _, y in points])
            for k, points in known.items()
            if len(points) > 1
        ]
        if series:
            chart = charts.lines(series, f"training {name}", "step", name)
            parts.append(f"<div>{chart}</div>")
    if not parts:
        return ""
    return section(
        "Training",
        "From the log kept with the checkpoint.",
        f"<div class='pair'>{''.join(parts)}</div>",
    )
