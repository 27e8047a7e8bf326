"""A table in plain text."""

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: int = 1) -> str:
    """Aligned columns; those from `numeric` on to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    align = lambda i, cell: (
        cell.rjust(widths[i]) if i >= numeric else cell.ljust(widths[i])
    )
    line = lambda row: "  " + "  ".join(align(i, c) for i, c in enumerate(row)).rstrip()
    rule = "  " + "  ".join("-" * w for w in widths)
    return "\n".join([line(head), rule, *map(line, rows)])
