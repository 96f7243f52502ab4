"""Beam search: several continuations of a prompt at a time, of which the likeliest go on."""

from dataclasses import dataclass

import numpy as np

from numtx import functional as F
from numtx.generation.largest import largest
from numtx.generation.output import GenerateOutput
from numtx.generation.plan import Plan
from numtx.generation.steps import ReorderableStep

# Added to the score of what must not be chosen, as Transformers does: what is left to choose stays in order.
NEVER = -1e9


def beam_search(step: ReorderableStep, plan: Plan, *, rng: np.random.Generator | None = None) -> GenerateOutput:
    """Write on after the prompts of a plan by `plan.num_beams` beams each, and return the best that ended.

    At each step a beam's score is the sum of its log-probabilities, processed as the plan says; of all continuations of
    a prompt's beams, the best that do not end go on. One that ends is kept, under

        score = Σ log p / length^length_penalty        length: the new tokens, the end token included

    if it is among the `num_beams` best of its step and better than the worst one kept. A prompt is done, by
    `early_stopping`,

        True      when `num_beams` have ended
        False     when no beam, ending now, would be better than the worst one kept
        "never"   when none could be, whatever follows: with a positive penalty that is at the maximal length

    With `do_sample` the continuations are drawn, without replacement, from the softmax of their scores, and not the
    best taken; the best of its step are then the best of those drawn, whatever came first.

    Parameters
    ----------
    step : ReorderableStep
        That has read nothing yet. It reads each prompt once; then its rows are the beams, B · num_beams.
    plan : Plan
    rng : np.random.Generator or None
        For `do_sample`.

    Returns
    -------
    GenerateOutput
        `num_return_sequences` rows a prompt, the best first, with `sequences_scores` and `beam_indices`; `scores` and
        `logits` have a row for each beam. Where fewer ended than were asked for, a row has the score -1e9 (`NEVER`) or
        less, and no new token, or what was left to choose among forbidden ones: nothing was found for it.

    Raises
    ------
    ValueError
        If a score is NaN, or there is no generator to sample with.

    Notes
    -----
    As in Transformers, log-probabilities are not normalised again after processing, prompts that are done go on for
    company, and behind the end of a row stands the end token where padding is token 0, and -1 where nothing is an end
    token. With `do_sample`, Transformers 4.57 and 5 before 5.24 let those end that were drawn first, not the best of
    those drawn. Sutskever et al. (2014), section 3.2; the penalty: Wu et al. (2016), section 7; sampling without
    replacement: Kool et al., "Stochastic Beams and Where to Find Them" (2019), section 2.3.

    Examples
    --------
    After 0 comes 1 with probability 0.4 alone, but 1 is surely followed by 3:

    >>> from numtx.generation import GenerationConfig
    >>> from numtx.generation.plan import Surroundings, make_plan
    >>> even = [0.25, 0.25, 0.25, 0.25]
    >>> table = np.log([[0.6, 0.4, 1e-9, 1e-9], [1e-9, 1e-9, 1e-9, 1.0], even, even])
    >>> class Step:
    ...     def __call__(self, ids):
    ...         return table[ids[:, -1]]
    ...     def reorder(self, rows):
    ...         pass
    >>> config = GenerationConfig(num_beams=2, max_new_tokens=2).merged()
    >>> beam_search(Step(), make_plan(config, np.array([[0]]), Surroundings("model", vocab_size=4))).sequences
    array([[0, 1, 3]])
    """
    if plan.do_sample and not isinstance(rng, np.random.Generator):
        raise ValueError(f"generate: expected an np.random.Generator to sample with, got {type(rng).__name__}")
    search = Search(plan, rng if plan.do_sample else None)
    opened = np.repeat(np.arange(len(plan.ids)), plan.num_beams)
    logits = step(plan.ids)[opened]  # (B · n, V)
    step.reorder(opened)
    scores, raw = [], []
    while True:
        with np.errstate(invalid="ignore"):  # NaN is for `remove_invalid_values`, or refused
            log_probs = F.log_softmax(logits)[0]
        log_probs = plan.processors(search.rows, log_probs)
        if plan.config.output_scores:
            scores.append(log_probs)
        if plan.config.output_logits:
            raw.append(logits)
        origins = search.advance(log_probs)
        if search.over:
            break
        step.reorder(origins)
        logits = step(search.rows[:, -1:])
    return search.output(
        tuple(scores) if plan.config.output_scores else None, tuple(raw) if plan.config.output_logits else None
    )


@dataclass
class Beams:
    """Some continuations of each of B prompts, the best first.

    Attributes
    ----------
    ids : (B, n, t) int array
        The prompt, and what was written.
    origins : (B, n, t - T) int array
        The row, b · num_beams + beam, that each new token was chosen in.
    scores : (B, n) array
    ended : (B, n) boolean array
    """

    ids: np.ndarray
    origins: np.ndarray
    scores: np.ndarray
    ended: np.ndarray

    def __getitem__(self, places: np.ndarray) -> "Beams":
        """Take those at `places` (B, m) of each prompt."""
        prompts = np.arange(len(places))[:, None]
        return Beams(
            self.ids[prompts, places], self.origins[prompts, places], self.scores[prompts, places],
            self.ended[prompts, places],
        )  # fmt: skip


class Search:
    """The beams of all prompts, and what has ended; grows by a token at a time.

    Parameters
    ----------
    plan : Plan
    rng : np.random.Generator or None
        Continuations are drawn with it; None: the best are taken.

    Attributes
    ----------
    running : Beams
        What goes on.
    kept : Beams
        The best that have ended, each with its final score. A place that is still free has the score `NEVER`.
    open : (B,) boolean array
        Which prompts may still find something better.
    over : bool
        Whether there is nothing more to look for.

    Examples
    --------
    >>> from numtx.generation import GenerationConfig
    >>> from numtx.generation.plan import Surroundings, make_plan
    >>> config = GenerationConfig(num_beams=2, max_new_tokens=3).merged()
    >>> search = Search(make_plan(config, np.array([[7]]), Surroundings("model", vocab_size=8)))
    >>> search.advance(np.log(np.full((2, 8), [0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05])))
    array([0, 0])
    >>> search.rows
    array([[7, 0],
           [7, 1]])
    """

    def __init__(self, plan: Plan, rng: np.random.Generator | None = None):
        self.plan, self.rng, self.over = plan, rng, False
        self.penalty = 1.0 if plan.config.length_penalty is None else plan.config.length_penalty
        batch, prompt = plan.ids.shape
        beams, free = plan.num_beams, plan.max_length - prompt
        # All beams are the same at first: one alone may be continued, or all would choose the same.
        scores = np.full((batch, beams), NEVER)
        scores[:, 0] = 0
        ids = np.repeat(plan.ids[:, None], beams, axis=1)  # (B, n, T)
        none = np.zeros((batch, beams), bool)
        self.running = Beams(ids, np.empty((batch, beams, 0), np.int64), scores, none)
        fill = np.full((batch, beams, free), self.filling, np.int64)
        self.kept = Beams(
            np.concatenate([ids, fill], axis=2), np.full((batch, beams, free), -1), np.full((batch, beams), NEVER), none
        )
        self.open = np.ones(batch, bool)

    @property
    def filling(self) -> int:
        """What stands behind the end of a row."""
        ends = self.plan.end_ids
        return int(self.plan.pad_id or ends[0]) if ends.size else -1

    @property
    def rows(self) -> np.ndarray:
        """What each beam has, (B · n, t)."""
        return self.running.ids.reshape(-1, self.running.ids.shape[2])

    def advance(self, log_probs: np.ndarray) -> np.ndarray:
        """Continue each beam, by scores of the tokens (B · n, V); return the rows that go on, (B · n,)."""
        found, places = self._found(log_probs)
        count = self.plan.num_beams
        self._keep(found, count)
        # What has ended does not go on, unless there is nothing else.
        found.scores = found.scores + NEVER * found.ended
        going = largest(found.scores, count)  # (B, n)
        all_ended = bool(found.ended.all())
        self.running = found[going]
        self._close()
        # With `early_stopping` the places need only be taken; else nothing may be left to improve.
        full = self.plan.config.early_stopping is True and bool(self.kept.ended.all())
        self.over = all_ended or full or not self.open.any()
        return np.take_along_axis(places, going, axis=1).ravel()

    def output(self, scores: tuple | None = None, logits: tuple | None = None) -> GenerateOutput:
        """Return the best that have ended, in rows as long as the longest."""
        best = self.plan.num_return_sequences
        origins = self.kept.origins[:, :best].reshape(-1, self.kept.origins.shape[2])
        ids = self.kept.ids[:, :best].reshape(len(origins), -1)
        new = int((origins >= 0).sum(axis=1).max())
        return GenerateOutput(
            ids[:, : self.plan.prompt_length + new],
            scores,
            logits,
            sequences_scores=self.kept.scores[:, :best].ravel(),
            beam_indices=origins[:, :new],
        )

    def _found(self, log_probs):
        """Return the continuations to choose from, `Beams` of m a prompt, and the rows that they come from (B, m).

        There are so many that enough are left to go on with if all end tokens were chosen by each beam.
        """
        (batch, beams), vocab_size = self.running.scores.shape, log_probs.shape[1]
        wanted = max(2, 1 + self.plan.end_ids.size) * beams
        scores = log_probs.reshape(batch, beams, -1) + self.running.scores[:, :, None].astype(log_probs.dtype)
        scores = scores.reshape(batch, -1)  # (B, n · V)
        if np.isnan(scores.max()):
            raise ValueError("generate: expected log-probabilities without NaN, got one")
        chosen = largest(scores if self.rng is None else _drawn(scores, self.rng), wanted)  # (B, m)
        if self.rng is not None:  # they are in the order of drawing: the best first
            best = largest(np.take_along_axis(scores, chosen, axis=1), wanted)
            chosen = np.take_along_axis(chosen, best, axis=1)
        origins, tokens = np.divmod(chosen, vocab_size)
        places = origins + beams * np.arange(batch)[:, None]
        found = self.running[origins]
        found.ids = np.concatenate([found.ids, tokens[:, :, None]], axis=2)
        found.origins = np.concatenate([found.origins, places[:, :, None]], axis=2)
        found.scores = np.take_along_axis(scores, chosen, axis=1)
        found.ended = self.plan.stopping(found.ids.reshape(batch * wanted, -1)).reshape(batch, wanted)
        return found, places

    def _keep(self, found, count):
        """Keep of what has ended the best, among the first `count` that were found."""
        config, kept = self.plan.config, self.kept
        written = found.origins.shape[2]
        ended = found.ended & (np.arange(found.ended.shape[1]) < count)
        scores = found.scores / written**self.penalty
        closed = ~self.open
        if config.early_stopping is True:
            closed |= kept.ended.all(axis=1)
        scores = scores + NEVER * closed[:, None] + NEVER * ~ended
        missing = ((0, 0), (0, 0), (0, kept.origins.shape[2] - written))
        merged = Beams(
            np.concatenate([kept.ids, np.pad(found.ids, missing, constant_values=self.filling)], axis=1),
            np.concatenate([kept.origins, np.pad(found.origins, missing, constant_values=-1)], axis=1),
            np.concatenate([kept.scores, scores], axis=1),
            np.concatenate([kept.ended, ended], axis=1),
        )
        self.kept = merged[largest(merged.scores, count)]

    def _close(self):
        """Close the prompts whose best beam cannot become better than the worst one kept."""
        config, length = self.plan.config, self.running.origins.shape[2]
        if config.early_stopping == "never" and self.penalty > 0:
            length = self.kept.origins.shape[2]  # the longest there can be: the sum is divided by most
        attainable = self.running.scores[:, :1] / length**self.penalty  # (B, 1)
        worst = np.where(self.kept.ended, self.kept.scores.min(axis=1, keepdims=True), NEVER)
        self.open = self.open & (attainable > worst).any(axis=1)


def _drawn(scores, rng):
    """Return scores whose largest k are k draws without replacement from the softmax of `scores`, in their order.

    To each is added a number of Gumbel's distribution, -log(-log u): the largest sum is the first draw, and so on.
    """
    with np.errstate(divide="ignore"):  # u = 0 is never drawn first
        return scores - np.log(-np.log(rng.random(scores.shape)))
