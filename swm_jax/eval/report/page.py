"""HTML elements of the report: names, numbers, tables, tiles."""

import base64
import html

NAMES = {
    "swm": "swm, from pixels",
    "simulator": "simulator, upper bound",
    "random": "random, lower bound",
    "mppi": "MPPI",
    "cem": "CEM",
    "best_of_n": "best of n",
    "block_to_block": "block to block",
}


def display(name: str) -> str:
    """Display name of a task, method or world model."""
    return NAMES.get(name, name.replace("_", " "))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def interval(bounds) -> str:
    if not bounds or bounds[0] is None:
        return ""
    return f"{100 * bounds[0]:.0f} to {100 * bounds[1]:.0f} %"


def section(name: str, text: str, *content: str) -> str:
    """A card with a heading and a sentence on how to read it."""
    body = "".join(content)
    return f"<section><h2>{name}</h2><p class='note'>{text}</p>{body}</section>"


def tile(value: str, name: str, note: str) -> str:
    return (
        f"<div class='tile'><span class='name'>{html.escape(name)}</span>"
        f"<b>{html.escape(value)}</b><span>{html.escape(note)}</span></div>"
    )


def table(head: list[str], rows: list[list[str]], numeric: int = 1) -> str:
    """HTML table; cells are HTML, columns from `numeric` on are right-aligned."""
    cell = lambda kind, i, text: (
        f"<{kind} class='n'>{text}</{kind}>"
        if i >= numeric
        else f"<{kind}>{text}</{kind}>"
    )
    line = lambda kind, cells: (
        "<tr>" + "".join(cell(kind, i, c) for i, c in enumerate(cells)) + "</tr>"
    )
    body = "".join(line("td", row) for row in rows)
    return f"<div class='scroll'><table>{line('th', head)}{body}</table></div>"


def picture(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
