"""From the classes of tokens to entities: tokens of a word made to agree, neighbours joined, windows merged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Join = Callable[[Sequence[str]], str]  # tokens to text
Names = Mapping[int, str]


@dataclass(frozen=True)
class Token:
    """A token of a text: its scores (classes,), its characters, its place in the row, and whether it goes on a word."""

    word: str
    scores: np.ndarray
    start: int
    end: int
    index: int
    goes_on: bool

    def answer(self, names: Names) -> dict[str, Any]:
        """Return the likeliest class of this token."""
        best = int(self.scores.argmax())
        return {
            "entity": names[best],
            "score": float(self.scores[best]),
            "index": self.index,
            "word": self.word,
            "start": self.start,
            "end": self.end,
        }


def _first(tokens: Sequence[Token]) -> np.ndarray:
    return tokens[0].scores


def _average(tokens: Sequence[Token]) -> np.ndarray:
    return np.mean([token.scores for token in tokens], axis=0)


def _surest(tokens: Sequence[Token]) -> np.ndarray:
    return max(tokens, key=lambda token: token.scores.max()).scores


# How the tokens of a word come to one set of scores; None: they do not.
STRATEGIES: dict[str, Callable[[Sequence[Token]], np.ndarray] | None] = {
    "none": None,
    "simple": None,
    "first": _first,
    "average": _average,
    "max": _surest,
}


def one_a_word(
    tokens: Sequence[Token], names: Names, agree: Callable[[Sequence[Token]], np.ndarray], join: Join
) -> list[dict[str, Any]]:
    """Return one answer a word, with the class of the scores that `agree` makes of its tokens.

    Examples
    --------
    >>> micro = Token("micro", np.array([0.9, 0.1]), 0, 5, 1, False)
    >>> soft = Token("soft", np.array([0.3, 0.7]), 5, 9, 2, True)
    >>> one_a_word([micro, soft], {0: "B-ORG", 1: "O"}, STRATEGIES["first"], "".join)
    [{'entity': 'B-ORG', 'score': 0.9, 'word': 'microsoft', 'start': 0, 'end': 9}]
    """
    words: list[list[Token]] = []
    for token in tokens:
        if words and token.goes_on:
            words[-1].append(token)
        else:
            words.append([token])
    answers = []
    for word in words:
        scores = agree(word)
        best = int(scores.argmax())
        answers.append(
            {
                "entity": names[best],
                "score": float(scores[best]),
                "word": join([token.word for token in word]),
                "start": word[0].start,
                "end": word[-1].end,
            }
        )
    return answers


def tag_of(entity: str) -> tuple[bool, str]:
    """Return whether a class begins an entity, and which: "B-PER" does, "I-PER" and plain "PER" go on with one.

    Examples
    --------
    >>> tag_of("B-PER"), tag_of("I-PER"), tag_of("PER")
    ((True, 'PER'), (False, 'PER'), (False, 'PER'))
    """
    return entity.startswith("B-"), entity[2:] if entity.startswith(("B-", "I-")) else entity


def groups(answers: Sequence[Mapping[str, Any]], join: Join) -> list[dict[str, Any]]:
    """Join neighbours of one class; the score is their mean.

    Examples
    --------
    >>> new = {"entity": "B-LOC", "score": 0.75, "word": "New", "start": 0, "end": 3}
    >>> york = {"entity": "I-LOC", "score": 0.25, "word": "York", "start": 4, "end": 8}
    >>> groups([new, york], " ".join)
    [{'entity_group': 'LOC', 'score': 0.5, 'word': 'New York', 'start': 0, 'end': 8}]
    """
    joined: list[list[Mapping[str, Any]]] = []
    for answer in answers:
        begins, tag = tag_of(answer["entity"])
        if joined and not begins and tag == tag_of(joined[-1][-1]["entity"])[1]:
            joined[-1].append(answer)
        else:
            joined.append([answer])
    return [
        {
            "entity_group": group[0]["entity"].split("-", 1)[-1],
            "score": float(np.mean([answer["score"] for answer in group])),
            "word": join([answer["word"] for answer in group]),
            "start": group[0]["start"],
            "end": group[-1]["end"],
        }
        for group in joined
    ]


def merged_overlaps(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of answers that begin inside another, as windows give, keep the longest, and of equally long ones the surest.

    Examples
    --------
    >>> short, long = {"start": 3, "end": 5, "score": 0.9}, {"start": 2, "end": 5, "score": 0.1}
    >>> merged_overlaps([short, long]) == [long]
    True
    """
    kept: list[dict[str, Any]] = []
    for answer in sorted(answers, key=lambda answer: answer["start"]):
        if not kept or not kept[-1]["start"] <= answer["start"] < kept[-1]["end"]:
            kept.append(answer)
        elif _worth(answer) > _worth(kept[-1]):
            kept[-1] = answer
    return kept


def _worth(answer: Mapping[str, Any]) -> tuple[int, float]:
    return answer["end"] - answer["start"], answer["score"]
