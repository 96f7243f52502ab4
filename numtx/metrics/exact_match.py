"""Texts that are right to the letter, or but for what does not count."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from numtx.metrics.metric import Measured, Metric
from numtx.metrics.texts import text_list

FEATURES = {"predictions": "string", "references": "string"}
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DIGITS = str.maketrans("", "", string.digits)


class ExactMatch(Metric):
    """The part of the texts that are their reference, but for what is to be ignored.

    Examples
    --------
    >>> texts = {"predictions": ["cat?", "theater", "yelling", "agent"],
    ...          "references": ["the cat", "theater", "YELLING", "agent007"]}
    >>> ExactMatch().compute(**texts)
    {'exact_match': 0.25}
    >>> ExactMatch().compute(**texts, regexes_to_ignore=["the "], ignore_case=True, ignore_punctuation=True)
    {'exact_match': 0.75}
    """

    name = "exact_match"
    description = (
        "The part of the texts that are their reference to the letter, or but for case, ASCII punctuation, ASCII digits"
        " or regular expressions that are to be ignored. Texts of which nothing is left match only if they were equal"
        " before."
    )
    features = FEATURES

    def measure(
        self,
        predictions,
        references,
        regexes_to_ignore: Sequence[str] | None = None,
        ignore_case: bool = False,
        ignore_punctuation: bool = False,
        ignore_numbers: bool = False,
    ):
        """Go through texts.

        Parameters
        ----------
        predictions, references : list of str
        regexes_to_ignore : list of str, optional
            What they match is taken out, one after another, before anything else is done.
        ignore_case, ignore_punctuation, ignore_numbers : bool
        """
        patterns = _patterns(self.name, regexes_to_ignore)

        def rest(text: str) -> str:
            for pattern in patterns:
                text = pattern.sub("", text)
            text = text.lower() if ignore_case else text
            text = text.translate(_PUNCTUATION) if ignore_punctuation else text
            return text.translate(_DIGITS) if ignore_numbers else text

        matches = np.zeros(len(references))
        texts = zip(
            text_list(self.name, "prediction", predictions), text_list(self.name, "reference", references), strict=True
        )
        for k, (got, wanted) in enumerate(texts):
            left = rest(got)
            matches[k] = left == rest(wanted) and (left != "" or got == wanted)
        return Measured(len(references), lambda times: {self.name: float(times @ matches / times.sum())})


def _patterns(name: str, said: Any) -> list[re.Pattern[str]]:
    if isinstance(said, str):
        raise ValueError(f"{name}: expected regexes_to_ignore as a list, got the text {said!r}")
    try:
        return [re.compile(one) for one in said or ()]
    except (re.error, TypeError) as error:
        raise ValueError(f"{name}: expected regular expressions in regexes_to_ignore, got {error}") from None
