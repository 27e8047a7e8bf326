"""Labels for episodes without exact predicates: `python -m data_pipelines.label`.

    python -m data_pipelines.label data/table data/table_labelled \\
        --labeller=vqa --checkpoint=downloads/model --questions=questions.txt
    python -m data_pipelines.label data/table data/table_labelled \\
        --labeller=my_module:my_function --questions=questions.txt

For random starts and horizons of every episode, the labeller answers some of the
questions (one per line of the file); answers with a confidence of at least
`--min_confidence` are stored with the episode, and training draws from them
(`label.sampler`). `python -m data_pipelines.agreement` measures a labeller's accuracy
on data with exact answers.
"""

from absl import app, flags, logging

from data_pipelines.label.labellers import load_labeller
from data_pipelines.label.store import Asking, label_folder, read_questions
from swm_jax.cli import GOES_ON, define_path, error_line, run_command


def main(argv: list[str]) -> None:
    """Labels the folder named on the command line."""
    if len(argv) != 3 or not _QUESTIONS.value:
        raise app.UsageError(
            "usage: python -m data_pipelines.label SRC DST --questions=FILE"
        )
    logging.set_verbosity(logging.WARNING)
    with error_line(ValueError):
        asking = Asking(
            questions=read_questions(_QUESTIONS.value),
            starts=_STARTS.value,
            horizons=tuple(int(h) for h in _HORIZONS.value),
            per_frame=_PER_FRAME.value,
            min_confidence=_CONFIDENCE.value,
        )
        labeller = load_labeller(_LABELLER.value, _CHECKPOINT.value, _PROMPT.value)
        stored, dropped = label_folder(argv[1], argv[2], labeller, asking)
    print(f"{stored} labels stored, {dropped} dropped; the data set is in {argv[2]}")


if __name__ == "__main__":
    _LABELLER = flags.DEFINE_string(
        "labeller", "vqa", "predicates, vqa, module:function."
    )
    _CHECKPOINT = define_path("checkpoint", None, "Of the model; None: shipped.")
    _QUESTIONS = define_path("questions", None, "A file, one question per line.")
    _STARTS = flags.DEFINE_integer("starts", 8, "Start frames per episode.")
    _HORIZONS = flags.DEFINE_list("horizons", ["0", "4", "8", "16"], "Actions ahead.")
    _PER_FRAME = flags.DEFINE_integer(
        "per_frame", 8, "Questions per start and horizon."
    )
    _CONFIDENCE = flags.DEFINE_float("min_confidence", 0.8, "Labels below are dropped.")
    _PROMPT = flags.DEFINE_string("prompt", "{question}", "Words around a question.")
    run_command(main, stopped=GOES_ON)
