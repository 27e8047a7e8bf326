"""Description of a data set: `python -m data_pipelines.describe DIR [--output FILE]`.

Prints per split the numbers of episodes and frames, lengths, policies, instructions
and statistics of the actions; then the sizes of the pools of questions and the balance
of trial batches, or a summary of the stored labels. `--output` writes a contact sheet
of random tuples (`.png`) or a page with text and contact sheet (`.html`).
"""

from pathlib import Path

from absl import app, flags, logging

from data_pipelines.describe.summary import report, write
from data_pipelines.schema.episode import DataError
from swm_jax.cli import define_path, error_line, run_command
from swm_jax.files import user_path


def main(argv: list[str]) -> None:
    """Prints the description of the folder named on the command line."""
    if len(argv) != 2:
        raise app.UsageError(
            "usage: python -m data_pipelines.describe DIR [--output page.html]"
        )
    logging.set_verbosity(logging.WARNING)
    output = Path(_OUTPUT.value) if _OUTPUT.value else None
    with error_line(DataError, ValueError):
        if output and output.suffix not in (".png", ".html"):
            raise DataError(f"--output is '{output}', expected a .png or .html file")
        text, sheet = report(Path(user_path(argv[1])), _EXAMPLES.value if output else 0)
        print(text)
        if output and sheet is not None:
            write(text, sheet, output, f"Data set {Path(argv[1]).name}")
            print(f"\nthe picture is in {output}")


if __name__ == "__main__":
    _OUTPUT = define_path("output", None, "A .png or .html file.")
    _EXAMPLES = flags.DEFINE_integer("examples", 18, "Tuples on the contact sheet.")
    run_command(main)
