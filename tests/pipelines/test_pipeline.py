"""`numtx.pipeline`: tasks found, models opened or refused, answers in the shape of what was asked."""

import re
import warnings
from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest
from pipeline_questions import same, texts
from refusals import one_line

import numtx
from numtx.pipelines import ALIASES, TASKS, Pipeline, TextClassificationPipeline
from numtx.pipelines.registry import task_name


def test_every_task_and_alias_is_found():
    assert {task_name(name) for name in (*TASKS, *ALIASES)} == set(TASKS)
    assert task_name("translation_en_to_de") == "translation"


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("text-clasification", "text-classification"),
        ("Fill_Mask", "fill-mask"),
        ("sentiment", "sentiment-analysis"),
        ("translation_xx_yy", "translation_xx_to_yy"),
    ],
)
def test_an_unknown_task_lists_the_known_ones_and_the_nearest(asked, nearest):
    with pytest.raises(ValueError, match=rf"feature-extraction, fill-mask.*got '{asked}'; the nearest is '{nearest}'$"):
        numtx.pipeline(asked)


def test_a_translation_wants_its_languages():
    with pytest.raises(ValueError, match=r"expected languages in place of xx and yy .*, as in translation_en_to_de$"):
        numtx.pipeline("translation_xx_to_yy")


def test_neither_task_nor_model():
    with pytest.raises(ValueError, match=r"expected a task .* or a model, got neither"):
        numtx.pipeline()


@pytest.mark.parametrize(
    ("model", "task"),
    [("moods", "text-classification"), ("entities", "token-classification"), ("masked_bytes", "fill-mask")],
)
def test_the_class_of_a_model_says_its_task(model, task, folders):
    assert numtx.pipeline(model=folders[model]).task == task
    opened = numtx.pipeline(model=folders[model])
    assert numtx.pipeline(None, opened.model, tokenizer=opened.tokenizer).task == task


def test_the_name_that_was_asked_for_is_kept(made):
    assert made("ner", "entities").task == "ner"
    assert repr(made("ner", "entities")) == "TokenClassificationPipeline(task='ner', model=BertForTokenClassification)"


# --- models that will not do


@pytest.mark.parametrize(
    ("task", "model", "found"),
    [
        ("text-classification", "features", "BertModel"),
        ("text-classification", "masked", "BertForMaskedLM"),
        ("fill-mask", "moods", "BertForSequenceClassification"),
        ("fill-mask", "last", "GPT2ForSequenceClassification"),  # a family that has no such head
        ("token-classification", "inference_bart", "BartForSequenceClassification"),
        ("zero-shot-classification", "entities", "BertForTokenClassification"),
    ],
)
def test_a_folder_without_the_head_says_which_class_it_found(task, model, found, folders):
    with one_line(rf"pipeline: {task} expects a model with a .*head for .*, got {found} in '.*{model}'"):
        numtx.pipeline(task, folders[model])


def test_a_model_in_memory_without_the_head_says_which_class_it_is(folders):
    body = numtx.AutoModel.from_pretrained(folders["features"])
    tokenizer = numtx.AutoTokenizer.from_pretrained(folders["features"])
    with one_line(r"pipeline: fill-mask expects .* \(BertForMaskedLM, .*\), got BertModel"):
        numtx.pipeline("fill-mask", body, tokenizer=tokenizer)
    with one_line(r"pipeline: feature-extraction expects .*, got int"):
        numtx.pipeline("feature-extraction", 3, tokenizer=tokenizer)
    with one_line("pipeline: expected a tokenizer with a model in memory"):
        numtx.pipeline("feature-extraction", body)
    assert numtx.pipeline("feature-extraction", body, tokenizer=folders["features"])("Hello")


def test_a_body_opens_out_of_a_model_with_a_head(made):
    assert type(made("feature-extraction", "moods").model).__name__ == "BertModel"


def test_a_folder_that_is_not_there(tmp_path):
    with one_line("hub: expected a folder"):
        numtx.pipeline("fill-mask", tmp_path / "no such folder")


@pytest.mark.parametrize("task", ["text-classification", "ner", "fill-mask", "feature-extraction"])
def test_offline_the_default_model_is_named_with_what_to_do(task, tmp_path):
    pytest.importorskip("huggingface_hub", reason="no huggingface_hub: pip install 'numtx[hub]'")
    name = re.escape(TASKS[task_name(task)].model)
    with one_line(rf"pipeline: the default model of {task}, {name}, does not open \(.*\); pass model=FOLDER"):
        numtx.pipeline(task, cache_dir=tmp_path, local_files_only=True)


def test_the_default_model_is_pinned_unless_a_revision_is_said(monkeypatch):
    asked = []

    def refuse(task, heads, name, **settings):
        asked.append((name, settings["revision"]))
        raise ValueError("not today")

    monkeypatch.setattr("numtx.pipelines.opening.open_with_head", refuse)
    for revision in (None, "main"):
        with one_line("pipeline: the default model"):
            numtx.pipeline("fill-mask", revision=revision)
    assert asked == [("distilbert/distilroberta-base", "fb53ab8"), ("distilbert/distilroberta-base", "main")]


def test_translation_has_a_default_for_some_pairs_alone():
    for task in ("translation", "translation_de_to_fr"):
        with pytest.raises(ValueError, match=f"{task} has no default model .*translation_en_to_de"):
            numtx.pipelines.registry.default_model(task)
    assert numtx.pipelines.registry.default_model("translation_en_to_fr").model == "google-t5/t5-base"


def test_the_default_model_of_questions_is_one_that_can_do_the_mode(monkeypatch):
    asked = []

    def refuse(task, heads, name, **settings):
        asked.append((name, settings["revision"]))
        raise ValueError("not today")

    monkeypatch.setattr("numtx.pipelines.opening.open_with_head", refuse)
    for settings in ({}, {"mode": "extractive"}, {"mode": "open"}, {"mode": "closed"}):
        with one_line("pipeline: the default model of question-answering"):
            numtx.pipeline("question-answering", **settings)
    spans, writes = (TASKS[task] for task in ("question-answering", "text2text-generation"))
    assert asked == [(one.model, one.revision) for one in (spans, spans, writes, writes)]


def test_double_precision(folders):
    single, double = (
        numtx.pipeline("feature-extraction", folders["features"], dtype=dtype) for dtype in (np.float32, np.float64)
    )
    got = [one("Hello, world!", return_tensors=True) for one in (single, double)]
    assert [one.dtype for one in got] == [np.float32, np.float64]
    np.testing.assert_allclose(got[0], got[1], atol=1e-5)


# --- settings


def test_an_unknown_setting_is_refused_with_the_nearest(made):
    with one_line("FillMaskPipeline: expected settings of .*, got 'topk'; the nearest is 'top_k'"):
        made("fill-mask", "masked", topk=3)
    with pytest.raises(ValueError, match="got 'target'; the nearest is 'targets'"):
        made("fill-mask", "masked")("[MASK]", target="a")


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_batch_size(wrong, made):
    with pytest.raises(ValueError, match="batch_size"):
        made("fill-mask", "masked", batch_size=wrong)
    with pytest.raises(ValueError, match="batch_size"):
        made("fill-mask", "masked")("[MASK]", batch_size=wrong)


def test_settings_of_a_call_count_before_those_of_the_pipeline_and_do_not_stay(made):
    fill = made("fill-mask", "masked", top_k=2)
    assert [len(fill("[MASK]", **options)) for options in ({}, {"top_k": 4}, {})] == [2, 4, 2]


# --- one, many, a stream


class Lengths(Pipeline):
    """Answers the length of a text in characters, and remembers what it was given in which batch."""

    name, heads = "lengths", ("base",)
    given: list

    def decide(self, *, times=1):
        return times

    def preprocess(self, text, chosen):
        return [numtx.pipelines.Piece({"input_ids": [0] * len(text)}, {"text": text})] * chosen

    def forward(self, rows, chosen):
        self.given.append([len(row["input_ids"]) for row in rows])
        return [len(row["input_ids"]) for row in rows]

    def postprocess(self, pieces, results, chosen):
        return [piece.more["text"] for piece in pieces], results


@pytest.fixture
def lengths(folders):
    opened = numtx.pipeline("feature-extraction", folders["features"])
    made = Lengths(opened.model, opened.tokenizer)
    made.given = []
    return made


def test_a_list_is_sorted_into_batches_and_answered_in_its_order(lengths):
    asked = ["a" * n for n in (3, 9, 1, 7, 7, 2)]
    assert lengths(asked, batch_size=2) == [([text], [len(text)]) for text in asked]
    assert lengths.given == [[9, 7], [7, 3], [2, 1]]


def test_the_pieces_of_an_input_come_back_together(lengths):
    asked = ["a" * n for n in (3, 9, 1)]
    assert lengths(asked, batch_size=4, times=2) == [([text] * 2, [len(text)] * 2) for text in asked]
    assert lengths.given == [[9, 9, 3, 3], [1, 1]]
    assert lengths(asked, times=0) == [([], [])] * 3


def test_a_list_has_the_class_s_batches_where_nobody_says_a_size(lengths):
    lengths(["a"] * 17)
    assert [len(batch) for batch in lengths.given] == [8, 8, 1]
    lengths.given, lengths.batch_size = [], 5
    lengths(("a",) * 6)
    assert [len(batch) for batch in lengths.given] == [5, 1]


def test_without_a_padding_token_each_goes_alone(lengths):
    lengths.can_pad = lambda: False
    lengths(["a"] * 3, batch_size=2)
    assert lengths.given == [[1], [1], [1]]


def test_a_generator_is_answered_lazily(lengths):
    drawn = []

    def source():
        for n in count(1):
            drawn.append(n)
            yield "a" * n

    answers = lengths(source())
    assert drawn == []
    assert [results for _, results in islice(answers, 3)] == [[1], [2], [3]]
    assert drawn == [1, 2, 3]  # one in, one out
    answers = lengths(source(), batch_size=2)
    assert next(answers)[1] == [4 - 3]
    assert len(drawn) == 3 + 2 * numtx.pipelines.base.IN_A_WINDOW


def test_a_generator_s_answers_are_a_list_s(made):
    asked = ["Hello [MASK]!", "[MASK]", "The [MASK] of the [MASK] is here"]
    fill = made("fill-mask", "masked")
    assert list(fill(text for text in asked)) == [fill(text) for text in asked]
    assert same(fill(asked, batch_size=3), [fill(text) for text in asked])


def test_nothing_in_nothing_out(lengths):
    assert lengths([]) == []
    assert list(lengths(iter([]))) == []
    for wrong in (3, b"ab", bytearray(b"ab")):
        said = f"Lengths: expected a text, a list of them or a generator, got {type(wrong).__name__}"
        with pytest.raises(ValueError, match=said):
            lengths(wrong)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 50])
@pytest.mark.parametrize(("task", "model"), [("text-classification", "moods"), ("text-classification", "several")])
def test_the_batch_changes_nothing(task, model, size, made):
    # `several` has a tokenizer that pads on the left, where positions of a BERT would move.
    classify, asked = made(task, model, truncation=True, max_length=64), texts(5, 40)
    assert same(classify(asked, batch_size=size), [classify(text)[0] for text in asked])


def test_padding_is_masked_even_where_the_tokenizer_gives_no_mask(made):
    extract, asked = made("feature-extraction", "features", return_tensors=True), ["a", "The assert statement is"]
    expected = extract(asked)
    extract.tokenizer.model_input_names = ["input_ids"]
    assert "attention_mask" not in extract.tokenizer("a")
    assert same(extract(asked, batch_size=2), expected)


# --- progress


class Terminal:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_a_bar_is_shown_on_a_terminal_alone_and_once_it_takes_long(lengths, monkeypatch, capsys):
    monkeypatch.setattr("numtx.pipelines.progress.PATIENCE", -1.0)
    lengths(["a"] * 20)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("numtx.pipelines.progress.PATIENCE", 100.0)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    lengths(["a"] * 20)
    assert terminal.text == ""
    monkeypatch.setattr("numtx.pipelines.progress.PATIENCE", -1.0)
    assert len(lengths(["a"] * 20)) == 20
    assert "lengths" in terminal.text
    assert "20" in terminal.text
    terminal.text = ""
    lengths(["a"] * 20, progress=False)
    assert terminal.text == ""
    lengths("a", times=20)  # one text of many rows
    assert "lengths" in terminal.text


def test_the_bar_moves_with_every_batch_of_one_long_text_and_of_a_list(lengths, monkeypatch):
    monkeypatch.setattr("numtx.pipelines.progress.PATIENCE", -1.0)
    told = []

    class Bar:
        task_ids = (0,)

        def __getattr__(self, name):
            return lambda *arguments, **settings: None

        def update(self, number, completed):
            told.append(completed)

    monkeypatch.setattr("numtx.pipelines.progress._bar", Bar)
    lengths("a", times=4, progress=True)
    assert told == [0.25, 0.5, 0.75, 1.0]
    told.clear()
    lengths(["a"] * 6, batch_size=2, progress=True)
    assert told == [2, 4, 6]
    told.clear()
    monkeypatch.setattr("numtx.pipelines.base.IN_A_WINDOW", 1)
    lengths(["a"] * 5, batch_size=2, times=2, progress=True)
    assert told == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("wrong", ["yes", 1, 0])
def test_progress(wrong, made):
    with pytest.raises(ValueError, match=f"expected progress None, True or False, got {wrong!r}"):
        made("fill-mask", "masked", progress=wrong)
    with pytest.raises(ValueError, match="expected progress"):
        made("fill-mask", "masked")("[MASK]", progress=wrong)


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("text-classification", "moods"),
        ("fill-mask", "masked"),
        ("feature-extraction", "features"),
        ("feature-extraction", "features_bytes"),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["its tokenizer knows the context", "it does not"])
def test_a_text_that_is_too_long_is_one_error_and_no_warning_and_what_it_says_helps(task, model, made, known):
    reads = made(task, model)
    context = reads.model.config.context
    reads.tokenizer.model_max_length = context if known else int(1e30)
    text, own = "[MASK] " + "way " * 700, type(reads).__name__
    said = rf"{own}: expected a text of at most {context} tokens, the model's context, got \d+ \(.* cuts it\)"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with one_line(said) as error:
            reads(text)
        advice = re.search(r"\((\w+=.*) cuts it", str(error.value))[1]
        assert reads(text, **eval(f"dict({advice})"))
    with one_line(said):  # one of many, too
        reads(["[MASK]", text])


def test_a_tokenizer_of_another_model_is_refused(folders):
    model = numtx.AutoModelForSequenceClassification.from_pretrained(folders["moods"])
    small = type(model)(replace(model.config, vocab_size=11), rng=0)
    tokenizer = numtx.AutoTokenizer.from_pretrained(folders["moods"])
    largest = max(tokenizer.get_vocab().values())
    said = rf"expected a tokenizer with ids below vocab_size = 11 of BertForSequenceClassification, got id {largest} "
    with pytest.raises(ValueError, match=said) as caught:
        numtx.pipeline("text-classification", small, tokenizer=tokenizer)
    assert str(folders["moods"]) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=said):
        TextClassificationPipeline(small, tokenizer)
