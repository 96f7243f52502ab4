"""The loop that writes: score what may come, choose, feed it, until every row is done."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numtx.generation.beams import beam_search
from numtx.generation.choose import choose
from numtx.generation.output import GenerateOutput
from numtx.generation.plan import Plan
from numtx.generation.steps import DecodingStep, ReorderableStep
from numtx.generation.stopping import Criterion


def write(step: ReorderableStep, plan: Plan, *, rng=None, streamer: Any = None) -> GenerateOutput:
    """Write on after the prompts of a plan: by beams if it has several, else by `sample`.

    Parameters
    ----------
    step : ReorderableStep
        That has read nothing yet.
    plan : Plan
    rng : np.random.Generator or None
        For `do_sample`.
    streamer : object or callable or None
        As in `sample`; not with beams.
    """
    if plan.num_beams > 1:
        return beam_search(step, plan, rng=rng)
    return sample(step, plan, rng=rng, streamer=streamer)


def sample(step: ReorderableStep, plan: Plan, *, rng=None, streamer: Any = None) -> GenerateOutput:
    """Write on, one token for each row at a time: the likeliest, or by chance if the plan says so.

    The prompt is read once for all rows that go on from it. Where end tokens are known, a row gets padding behind its
    end.

    Parameters
    ----------
    step, plan, rng
        As in `write`.
    streamer : object or callable or None
        Its `put` is given the prompts (R, T), then the new id of each row (R,) as soon as it is chosen, and at last its
        `end` is called; a callable is given the new ids alone.

    Examples
    --------
    A step that always wants the successor of the last id:

    >>> from numtx.generation import GenerationConfig
    >>> from numtx.generation.plan import Surroundings, make_plan
    >>> config = GenerationConfig(max_new_tokens=3, eos_token_id=5).merged()
    >>> plan = make_plan(config, np.array([[3], [1]]), Surroundings("model", vocab_size=10))
    >>> sample(lambda ids: np.eye(10)[(ids[:, -1] + 1) % 10], plan).sequences
    array([[3, 4, 5, 5],
           [1, 2, 3, 4]])
    """
    put, end = streaming("generate", streamer)
    rng = rng if plan.do_sample else None
    written = Growing(np.repeat(plan.ids, plan.num_return_sequences, axis=0), plan.max_length)
    put(written.ids, True)
    scores, logits = [], []

    def choice(new):
        scored = plan.processors(written.ids, new)  # (R, V)
        if plan.config.output_scores:
            scores.append(scored)
        if plan.config.output_logits:
            logits.append(new)
        return choose(scored, rng)

    new = step(plan.ids)  # (B, V)
    if plan.num_return_sequences > 1:
        rows = np.repeat(np.arange(len(plan.ids)), plan.num_return_sequences)
        step.reorder(rows)
        new = new[rows]
    pad = plan.pad_id if plan.end_ids.size else None
    for chosen in columns(step, new, written, choice=choice, stopping=plan.stopping, pad=pad):
        put(chosen, False)
    end()
    return GenerateOutput(
        written.ids,
        tuple(scores) if plan.config.output_scores else None,
        tuple(logits) if plan.config.output_logits else None,
    )


def columns(
    step: DecodingStep,
    new: np.ndarray,
    written: "Growing",
    *,
    choice: Callable[[np.ndarray], np.ndarray],
    stopping: Criterion,
    pad: int | None,
) -> Iterator[np.ndarray]:
    """Yield the new id of each row, (R,), as soon as it is chosen, until all rows are done.

    Parameters
    ----------
    step : DecodingStep
    new : (R, V) array
        What it gave for the prompts.
    written : Growing
        The prompts; each id is appended.
    choice : callable
        Takes logits (R, V) and returns ids (R,).
    stopping : Criterion
    pad : int or None
        What a row gets behind its end, while others go on; None: what is chosen.
    """
    going = np.ones(len(new), bool)  # (R,)
    while True:
        chosen = choice(new)
        if pad is not None:
            chosen = np.where(going, chosen, pad)
        written.append(chosen)
        yield chosen
        going &= ~stopping(written.ids)
        if not going.any():
            return
        new = step(chosen[:, None])


class Growing:
    """Ids (R, t) that grow by a column at a time, without copying all of them each time.

    Examples
    --------
    >>> growing = Growing(np.array([[1], [2]]), most=3)
    >>> growing.append(np.array([3, 4]))
    >>> growing.ids
    array([[1, 3],
           [2, 4]])
    """

    def __init__(self, ids: np.ndarray, most: int):
        self._buffer = np.empty((len(ids), min(most, ids.shape[1] + 64)), np.int64)
        self._length = ids.shape[1]
        self._buffer[:, : self._length] = ids

    @property
    def ids(self) -> np.ndarray:
        return self._buffer[:, : self._length]

    def append(self, column: np.ndarray) -> None:
        if self._length == self._buffer.shape[1]:
            self._buffer = np.concatenate([self._buffer, np.empty_like(self._buffer)], axis=1)
        self._buffer[:, self._length] = column
        self._length += 1


def streaming(owner: str, streamer: Any) -> tuple[Callable[[np.ndarray, bool], None], Callable[[], None]]:
    """Return what is called with ids, and whether they are the prompt's, and what is called at the end.

    Examples
    --------
    >>> put, end = streaming("generate", print)
    >>> put(np.array([7]), False)
    [7]
    """
    if streamer is None:
        return lambda ids, prompt: None, lambda: None
    if hasattr(streamer, "put") and hasattr(streamer, "end"):
        return lambda ids, prompt: streamer.put(ids.copy()), streamer.end
    if callable(streamer):
        return lambda ids, prompt: None if prompt else streamer(ids.copy()), lambda: None
    raise ValueError(f"{owner}: expected a streamer with put and end, or a callable, got {type(streamer).__name__}")
