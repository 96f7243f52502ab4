"""The tasks that a model can be fine-tuned for: what each makes of a file of rows, and what it measures."""

import difflib

from numtx.training.tasks.answers import QuestionAnswering
from numtx.training.tasks.data import OWNER
from numtx.training.tasks.language import FillMask, LanguageModeling
from numtx.training.tasks.sequences import Regression, TextClassification
from numtx.training.tasks.targets import Summarization, Translation
from numtx.training.tasks.task import Findings, FineTuningTask, Lengths, Table
from numtx.training.tasks.words import TokenClassification

TASKS: dict[str, type[FineTuningTask]] = {
    one.name: one
    for one in (
        TextClassification,
        Regression,
        TokenClassification,
        QuestionAnswering,
        Summarization,
        Translation,
        LanguageModeling,
        FillMask,
    )
}


def task_of(name: str) -> type[FineTuningTask]:
    """Return a task by its name.

    Raises
    ------
    ValueError
        If there is none, with the nearest.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f" (is it {near[0]}?)" if near else ""
    raise ValueError(f"{OWNER}: expected a task of {', '.join(TASKS)}, got {name!r}{hint}")


__all__ = ["TASKS", "Findings", "FineTuningTask", "Lengths", "Table", "task_of"]
