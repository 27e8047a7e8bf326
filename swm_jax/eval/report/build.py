"""Self-contained report.html from results.json: tables, charts, films.

All content is inline (SVG, base64 images), without external requests. Sections without
results are left out.
"""

import html
import json
import pathlib
import string
from collections.abc import Mapping
from importlib import resources

from swm_jax.eval.config import format_seeds
from swm_jax.eval.report import answers, charts
from swm_jax.eval.report.page import (
    display,
    interval,
    percent,
    picture,
    section,
    table,
    tile,
)
from swm_jax.eval.report.svg import number

EMBED_LIMIT = 4 * 2**20  # bytes of one video inside the page


def render(
    results: Mapping,
    films: Mapping[str, Mapping] | None = None,
    training: list[dict] | None = None,
) -> str:
    """HTML page of an evaluation.

    Args:
      results: as `journal.check` accepts.
      films: per task {"caption", "frames": [(caption, jpeg bytes)], "video":
        path or None}.
      training: rows of the checkpoint's metrics log, or None.
    """
    template = resources.files("swm_jax.eval.report").joinpath("template.html")
    config = results["config"]
    sections = [
        _planning(results["planning"], config),
        _films(films or {}),
        answers.questions(results["qa"]),
        answers.calibration(results["qa"]),
        answers.sensitivity(results["action_sensitivity"]),
        answers.training(training or []),
        _appendix(results),
    ]
    model = results.get("model") or {}
    lead = " · ".join(
        filter(
            None,
            (
                f"preset {config['preset']}",
                f"model {model['name']}" if model.get("name") else None,
                f"{model['parameters'] / 1e6:.1f} M parameters"
                if model.get("parameters")
                else None,
                f"training step {model['step']}" if model.get("step") else None,
                results["machine"].get("date", "")[:16].replace("T", " "),
            ),
        )
    )
    return string.Template(template.read_text(encoding="utf-8")).substitute(
        title="Semantic world model: evaluation",
        lead=html.escape(lead),
        tiles="".join(_tiles(results)),
        sections="\n".join(filter(None, sections)),
    )


def _colour(row: Mapping) -> int:
    return {"swm": 0, "simulator": 2}.get(row["world_model"], 3)


def _tiles(results: Mapping):
    qa, sensitivity = results["qa"], results["action_sensitivity"]
    planning = results["planning"]
    if qa:
        yield tile(
            percent(qa["balanced_accuracy"]),
            "QA, balanced accuracy",
            f"guessing gives 50 %, question and horizon alone "
            f"{percent(qa['question_horizon_only'])}",
        )
    best = {}
    for row in planning:
        if row["world_model"] == "swm":
            old = best.get(row["task"])
            best[row["task"]] = max(row, old or row, key=lambda r: r["rate"])
    for row in best.values():
        random = [
            r["rate"]
            for r in planning
            if r["task"] == row["task"] and r["world_model"] == "random"
        ]
        beside = f", random actions {percent(random[0])}" if random else ""
        yield tile(
            percent(row["rate"]),
            f"{display(row['task'])}, from pixels",
            f"{row['successes']} of {row['episodes']} episodes, "
            f"95 % interval {interval(row['interval95'])}{beside}",
        )
    if sensitivity:
        yield tile(
            number(sensitivity["mean"]),
            "action sensitivity",
            "rank correlation of predicted and true value over candidates",
        )
    times = [r["seconds_per_replan"] for r in planning if r["world_model"] == "swm"]
    if times:
        row = next(r for r in planning if r["world_model"] == "swm")
        yield tile(
            f"{sum(times) / len(times):.2f} s",
            "per replan, from pixels",
            f"{row['candidates_per_replan']} candidates; one scene's share of a call "
            f"that plans for up to {results['config'].get('episodes_parallel', 1)}",
        )


def _planning(rows: list[dict], config: Mapping) -> str:
    if not rows:
        return ""
    groups = []
    for task in dict.fromkeys(r["task"] for r in rows):
        inside = [r for r in rows if r["task"] == task]
        several = len({r["method"] for r in inside} - {"random"}) > 1
        bars = [
            {
                "label": r["world_model"]
                + (
                    f", {display(r['method'])}"
                    if several and r["method"] != "random"
                    else ""
                ),
                "value": r["rate"],
                "interval": r["interval95"],
                "colour": _colour(r),
                "text": f"{r['successes']} of {r['episodes']}",
            }
            for r in inside
        ]
        groups.append((display(task), bars))
    rows_ = table(
        ["task", "world model", "method", "success", "95 % interval", "episodes",
         "steps to success", "s / replan", "candidates"],
        [
            [
                display(r["task"]),
                f"<span class='swatch' style='background:var(--c{_colour(r)})'></span>"
                + display(r["world_model"]),
                "random actions" if r["method"] == "random" else display(r["method"]),
                f"<b>{percent(r['rate'])}</b>",
                interval(r["interval95"]),
                str(r["episodes"]),
                number(r.get("mean_steps_to_success"), 0),
                number(r["seconds_per_replan"], 3),
                str(r["candidates_per_replan"]),
            ]
            for r in rows
        ],
        numeric=3,
    )  # fmt: skip
    chart = charts.bars(
        groups, "success rate by task", "success rate, Wilson 95 % interval", width=700
    )
    seeds = format_seeds(config["seeds"]) if config.get("seeds") else ""
    return section(
        "Planning",
        "Every world model answers the same questions about the same candidates; "
        "the planner keeps what makes the desired answers likely. The simulator is "
        "told the truth, random actions ask nobody. Goal questions: "
        f"{config.get('goal')}; seeds {seeds} (end excluded).",
        chart.replace('class="chart"', 'class="chart wide"'),
        rows_,
    )


def _films(films: Mapping[str, Mapping]) -> str:
    parts = []
    for task, film in films.items():
        parts.append(f"<h3>{html.escape(film['caption'])}</h3>")
        parts.append("<div class='film'>")
        for caption, data in film["frames"]:
            parts.append(
                f"<figure><img alt='{html.escape(caption)}' "
                f"src='{picture(data, 'image/jpeg')}'>"
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
        parts.append("</div>")
        parts.append(_video(film.get("video"), display(task)))
    if not parts:
        return ""
    return section(
        "Episodes",
        "One episode per task, a success where there is one, so not a typical one: "
        "what happens, what the model sees, and the probabilities it gives to the "
        "desired answers.",
        *parts,
    )


def _video(path, name: str) -> str:
    if not path:
        return ""
    path = pathlib.Path(path)
    link = html.escape(path.name)
    data = path.read_bytes()
    if len(data) > EMBED_LIMIT:
        return f"<p class='note'>Film: <a href='{link}'>{link}</a></p>"
    if path.suffix == ".gif":
        inner = f"<img class='video' alt='{name}' src='{picture(data, 'image/gif')}'>"
    else:
        source = picture(data, "video/mp4")
        inner = f"<video controls loop muted playsinline src='{source}'></video>"
    return f"<details><summary>film, {name} ({link})</summary>{inner}</details>"


def _appendix(results: Mapping) -> str:
    dump = lambda value: html.escape(json.dumps(value, indent=2))
    config = {**results["config"]}
    if config.get("seeds"):
        config["seeds"] = format_seeds(config["seeds"])
    facts = {**results["machine"], **results["versions"]}
    rows = [[html.escape(str(k)), html.escape(str(v))] for k, v in facts.items()]
    model = {k: v for k, v in (results.get("model") or {}).items() if k != "training"}
    return section(
        "Config, versions, machine",
        "The same figures as data: results.json, beside this page.",
        f"<div class='pair'><div><h3>Config</h3><pre>{dump(config)}</pre>",
        f"<h3>Model</h3><pre>{dump(model)}</pre></div>" if model else "</div>",
        f"<div><h3>Machine and versions</h3>{table(['', ''], rows, 2)}</div></div>",
    )
