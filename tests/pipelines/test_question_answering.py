"""Question answering: spans of a context in windows, and answers that are written."""

import itertools

import numpy as np
import pytest
from written_questions import make_folders

import numtx
from numtx.pipelines import QuestionAnsweringPipeline
from numtx.pipelines.question_answering import ExtractiveQuestionAnswering
from numtx.pipelines.spans import best_spans, merged
from numtx.pipelines.written_answers import PROMPTS, GenerativeQuestionAnswering

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
pytest.importorskip("sentencepiece", reason="no sentencepiece: pip install 'numtx[hub]'")

CONTEXT = "Alice lives in Zürich 😀 and Bob in Berlin. They don't co-operate. " * 30


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("models"), ("spans", "spans_bytes", "gpt2", "llama", "t5"))


@pytest.fixture(scope="module")
def finder(folders):
    return numtx.pipeline("question-answering", folders["spans"])


def spans_by_definition(start, end, allowed, longest):
    """Every span with its score, by loops, the likeliest first."""
    scores = {}
    p, q = (np.exp(x - x[allowed].max()) * allowed for x in (start.astype(float), end.astype(float)))
    p, q = p / p.sum(), q / q.sum()
    for i in range(1, len(p)):
        for j in range(i, min(i + longest, len(p))):
            if allowed[i] and allowed[j]:
                scores[i, j] = p[i] * q[j]
    return sorted(scores.items(), key=lambda item: -item[1]), p[0] * q[0]


@pytest.mark.parametrize("seed", range(20))
def test_best_spans_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    start, end = rng.standard_normal((2, int(rng.integers(8, 30))))
    allowed = rng.random(len(start)) < 0.7
    allowed[0] = allowed[-1] = True
    top_k, longest = int(rng.integers(1, 6)), int(rng.integers(1, 9))
    spans, no_answer = best_spans(start, end, allowed, top_k=top_k, max_answer_len=longest)
    expected, nothing = spans_by_definition(start, end, allowed, longest)
    real = [span for span in spans if span.score > 0]
    assert [(span.start, span.end) for span in real] == [place for place, _ in expected[: len(real)]]
    assert len(real) >= min(top_k, len(expected))
    np.testing.assert_allclose([span.score for span in real], [score for _, score in expected[: len(real)]])
    assert no_answer == pytest.approx(nothing)


def test_answers_that_differ_in_capitals_are_one():
    found = [("Paris", 0.5, 0), ("Rome", 0.4, 6), ("paris", 0.3, 11), ("PARIS", 0.1, 17)]
    answers = merged({"answer": text, "score": score, "start": start} for text, score, start in found)
    assert [(one["answer"], round(one["score"], 9), one["start"]) for one in answers] == [
        ("Paris", 0.9, 0),
        ("Rome", 0.4, 6),
    ]


def test_offsets_are_those_of_the_context(finder):
    answers = finder(question="Who?", context=CONTEXT, top_k=7)
    assert len(answers) > 1
    for answer in answers:
        assert answer["answer"] == CONTEXT[answer["start"] : answer["end"]]
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True)


def test_windows_cover_the_context_and_overlap(finder):
    chosen = finder.chosen({"max_seq_len": 40, "doc_stride": 10})
    pieces = list(finder.preprocess({"question": "Who?", "context": CONTEXT}, chosen))
    assert len(pieces) > 3
    inside = [
        [span for span, ok in zip(piece.more["encoding"].offsets, piece.more["allowed"], strict=True) if ok][1:]
        for piece in pieces
    ]  # without [CLS], which is allowed too
    for left, right in itertools.pairwise(inside):
        assert left[-10:] == right[:10]
    assert all(len(piece.inputs["input_ids"]) <= 40 for piece in pieces)
    every = finder.tokenizer(CONTEXT, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    assert sorted({span for window in inside for span in window}) == every["offset_mapping"]


def test_the_answer_is_the_best_over_all_windows(finder):
    behind = 0
    for i in range(8):
        asked = {"question": f"Who is {i}?", "context": CONTEXT}
        pieces = list(finder.preprocess(asked, finder.chosen({})))
        scores = []
        for piece in pieces:
            output = finder.run([piece.inputs])
            (span, *_), _ = best_spans(
                output.start_logits[0], output.end_logits[0], piece.more["allowed"], top_k=1, max_answer_len=15
            )
            scores.append(span.score)
        assert finder(asked)["score"] >= max(scores) - 1e-6
        behind += int(np.argmax(scores)) > 0
    assert behind > 4


def test_batches_and_generators_answer_the_same(finder):
    asked = [{"question": f"Who is {i}?", "context": CONTEXT[i * 9 :]} for i in range(5)]
    together = finder(asked, batch_size=3)
    alone = [finder(one) for one in asked]
    for one, other in zip(together, alone, strict=True):
        assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-6)
        assert one == other
    taken = []
    lazily = finder(taken.append(i) or one for i, one in enumerate(asked))
    next(lazily)
    assert taken == [0]


def test_ways_to_ask(finder):
    one = finder(question="Who?", context=CONTEXT)
    assert one == finder("Who?", CONTEXT) == finder({"question": "Who?", "context": CONTEXT})
    assert one == finder([{"question": "Who?", "context": CONTEXT}])
    assert finder(question=["Who?", "Who?"], context=CONTEXT) == [one, one]
    assert finder(question=["Who?", "Who?"], context=[CONTEXT, CONTEXT]) == [one, one]


def test_no_answer_is_the_lowest_over_windows(finder):
    answers = finder(question="Who?", context=CONTEXT, handle_impossible_answer=True, top_k=1000)
    (nothing,) = [answer for answer in answers if answer["answer"] == "" and answer["score"] > 0]
    assert (nothing["start"], nothing["end"]) == (0, 0)
    pieces = list(finder.preprocess({"question": "Who?", "context": CONTEXT}, finder.chosen({})))
    each = []
    for piece in pieces:
        logits = finder.run([piece.inputs])
        _, score = best_spans(
            logits.start_logits[0], logits.end_logits[0], piece.more["allowed"], top_k=1, max_answer_len=15
        )
        each.append(score)
    assert nothing["score"] == pytest.approx(min(each), abs=1e-6)
    assert max(each) > min(each) * 1.01


def test_a_tokenizer_that_pads_on_the_left_reads_the_context_first(folders):
    left = numtx.pipeline("question-answering", folders["spans"])
    left.tokenizer.padding_side = "left"
    pieces = list(left.preprocess({"question": "Who is it?", "context": CONTEXT}, left.chosen({})))
    for piece in pieces:
        places = np.flatnonzero(piece.more["allowed"])
        assert list(places) == list(range(len(places)))  # [CLS] and the context
        assert len(places) < len(piece.more["allowed"])
    answer = left(question="Who is it?", context=CONTEXT)
    assert answer["answer"] == CONTEXT[answer["start"] : answer["end"]]


def test_the_mode_chooses_the_class(folders):
    kinds = {"spans": {}, "t5": {"mode": "open"}, "gpt2": {"mode": "closed"}}
    for model, settings in kinds.items():
        made = numtx.pipeline("question-answering", folders[model], **settings)
        assert isinstance(made, QuestionAnsweringPipeline)
        assert type(made) is (GenerativeQuestionAnswering if settings else ExtractiveQuestionAnswering)


@pytest.mark.parametrize("mode", ["open", "closed"])
@pytest.mark.parametrize("model", ["t5", "gpt2", "llama"])
def test_written_answers_are_those_to_the_prompt(folders, model, mode):
    settings = {"max_new_tokens": 12, "do_sample": False}
    made = numtx.pipeline("question-answering", folders[model], mode=mode, **settings)
    asked = {"question": "Who lives in {context}?"} | ({"context": CONTEXT[:99]} if mode == "open" else {})
    kind = {"t5": "text-to-text", "gpt2": "causal", "llama": "chat"}[model]
    prompt = PROMPTS[kind, mode].replace("{context}", CONTEXT[:99]).replace("{question}", asked["question"])
    if kind == "text-to-text":
        writer = numtx.pipeline("text2text-generation", folders[model], num_beams=1, **settings)
        expected = writer(prompt)[0]["generated_text"]
    else:
        writer = numtx.pipeline("text-generation", folders[model], return_full_text=False, **settings)
        read = prompt if kind == "causal" else [{"role": "user", "content": prompt}]
        expected = writer(read, clean_up_tokenization_spaces=False)[0]["generated_text"]
        if kind == "causal":
            expected = expected.partition("\n")[0]
    assert made(**asked) == {"answer": expected.strip()}
    assert made([asked, asked]) == [{"answer": expected.strip()}] * 2
    if mode == "closed":
        assert made(asked["question"]) == {"answer": expected.strip()}
    several = made(**asked, num_beams=3, num_return_sequences=2)
    assert len(several) == 2
    assert all(set(one) == {"answer"} for one in several)


def test_a_line_ends_the_answer_of_a_model_without_chat_template(folders, monkeypatch):
    made = numtx.pipeline("question-answering", folders["gpt2"], mode="closed")
    newline = made.tokenizer.encode("\n")[0]
    seen = []

    def written(rows, writing):
        seen.append(writing.config.stop_strings)
        return [np.array([[*row["input_ids"], *made.tokenizer.encode(" so\nand"), newline]]) for row in rows]

    monkeypatch.setattr(made, "write", written)
    assert made("Who?") == {"answer": "so"}
    assert made("Who?", prompt="{question}") == {"answer": "so\nand"}
    assert seen == [["\n"], None]


def test_a_context_is_cut_until_its_prompt_fits(folders):
    made = numtx.pipeline("question-answering", folders["gpt2"], mode="open", max_new_tokens=5)
    asked = {"question": "Who is it?", "context": CONTEXT * 4}
    with pytest.raises(ValueError, match=r"prompt of at most 507 tokens, got \d+ \(truncation=True cuts the context\)"):
        made(asked)
    chosen = made.chosen({**made.settings, "truncation": True})
    (piece,) = made.preprocess(asked, chosen)
    assert 500 < len(piece.inputs["input_ids"]) <= 507
    assert made.tokenizer.decode(piece.inputs["input_ids"]).endswith("Question: Who is it?\nAnswer:")
    assert set(made(asked, truncation=True)) == {"answer"}
    with pytest.raises(ValueError, match="expected a question that leaves room"):
        made(question=CONTEXT * 4, context="It.", truncation=True)


BAD = {
    "no context": ({"question": "Who?"}, {}, "expected a context, a text that is not empty, got none"),
    "empty context": ({"question": "Who?", "context": ""}, {}, "expected a context, .* got an empty one"),
    "no question": ({"context": "It."}, {}, "expected a question, .* got none"),
    "text": ({"question": "Who?", "context": 3}, {}, "expected a context, .* got int"),
    "lengths": ({"question": ["a", "b"], "context": ["c"]}, {}, "expected a context for each of 2 questions, got 1"),
    "top_k": ({"question": "a", "context": "b"}, {"top_k": 0}, "top_k"),
    "stride": ({"question": "a", "context": "b"}, {"doc_stride": 40, "max_seq_len": 30}, "doc_stride of at most"),
    "long question": ({"question": "who " * 60, "context": "b"}, {}, "expected a question that leaves more than"),
    "unknown": ({"question": "a", "context": "b"}, {"topk": 2}, "got 'topk'; the nearest is 'top_k'"),
    "mode": (
        {"question": "a", "context": "b"},
        {"mode": "open"},
        r"expected mode 'extractive', got 'open' \(mode='open' is chosen when",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused(finder, case):
    asked, settings, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        finder(**asked, **settings)


def test_what_a_mode_cannot_do_is_refused(folders):
    written = numtx.pipeline("question-answering", folders["t5"], mode="closed")
    with pytest.raises(ValueError, match=r"expected no context \(mode='open' reads one\), got one"):
        written(question="Who?", context="It.")
    with pytest.raises(ValueError, match="expected a context"):
        written(question="Who?", mode="open")
    with pytest.raises(ValueError, match=r"expected a prompt with \{question\}"):
        written(question="Who?", prompt="Tell me.")
    with pytest.raises(ValueError, match="expected mode 'extractive' or 'open' or 'closed', got 'opne'"):
        numtx.pipeline("question-answering", folders["t5"], mode="opne")
    with pytest.raises(
        ValueError, match="question-answering expects a model with a trained head for question-answering"
    ):
        numtx.pipeline("question-answering", folders["gpt2"])
    for model in ("t5", "gpt2", "llama"):
        with pytest.raises(ValueError, match=r"; mode='open' or mode='closed' has it write answers$"):
            numtx.pipeline("question-answering", folders[model])
    opened = numtx.pipeline("text2text-generation", folders["t5"])
    with pytest.raises(ValueError, match="got T5ForConditionalGeneration; mode='open' or mode='closed'"):
        numtx.pipeline("question-answering", opened.model, tokenizer=opened.tokenizer)
    with pytest.raises(ValueError, match="question-answering expects a model with a head for seq2seq-lm or causal-lm"):
        numtx.pipeline("question-answering", folders["spans"], mode="open")
