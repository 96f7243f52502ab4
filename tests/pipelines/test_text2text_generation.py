"""Text to text, summaries and translations: prefixes, lengths, batches that change nothing."""

import numpy as np
import pytest
from written_questions import ENDS, TASK_PARAMS, make_folders

import numtx
from numtx.pipelines import SettingError

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
pytest.importorskip("sentencepiece", reason="no sentencepiece: pip install 'numtx[hub]'")

TEXTS = ["The assert statement is a convenient way", "a", "Zürich 😀", "", "x=y (see) naïve café"]
FEW = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("models"), ("t5", "bart", "marian", "gpt2"))


@pytest.fixture(scope="module")
def made(folders):
    return lambda task, model, **settings: numtx.pipeline(task, folders[model], **settings)


def test_one_or_several_answers_have_transformers_shapes(made):
    t5 = made("text2text-generation", "t5", **FEW)
    one = t5(TEXTS[0])
    assert [set(answer) for answer in one] == [{"generated_text"}]
    assert t5(TEXTS[:2])[0] == one[0]
    several = t5(TEXTS[:2], num_return_sequences=2)
    assert [len(answers) for answers in several] == [2, 2]
    assert list(t5(text for text in TEXTS[:1])) == [one]
    assert t5([]) == []


@pytest.mark.parametrize(
    ("task", "name"),
    [("text2text-generation", "generated"), ("summarization", "summary"), ("translation_en_to_de", "translation")],
)
def test_the_prefix_of_the_task_comes_first(made, task, name):
    pipe = made(task, "t5", return_tensors=True, num_beams=1, **FEW)
    (answer,) = pipe(TEXTS[0])
    prefix = TASK_PARAMS.get(task, {}).get("prefix", "")
    ids = pipe.tokenizer(prefix + TEXTS[0])["input_ids"]
    settings = {"no_repeat_ngram_size": 2, "min_length": 5} if task == "summarization" else {}
    expected = pipe.model.generate(np.array([ids]), num_beams=1, **settings, **FEW)
    np.testing.assert_array_equal(answer[f"{name}_token_ids"], expected[0])
    if prefix:
        assert not np.array_equal(
            expected, pipe.model.generate(np.array([pipe.tokenizer(TEXTS[0])["input_ids"]]), num_beams=1, **FEW)
        )


@pytest.mark.parametrize("model", ["t5", "bart", "marian"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 1, "eos_token_id": ENDS},
        {"num_return_sequences": 2, "eos_token_id": ENDS},
        {"encoder_no_repeat_ngram_size": 1, "sequence_bias": [[[0], 99.0], [[1], 99.0]]},  # which likes padding
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"num_beams": 1, "no_repeat_ngram_size": 1},
        {"num_beams": 1, "encoder_repetition_penalty": 3.0},
    ],
)
def test_batches_change_nothing(made, model, settings):
    pipe = made("text2text-generation", model, return_tensors=True, **FEW)
    together = pipe(TEXTS, batch_size=3, **settings)
    for text, got in zip(TEXTS, together, strict=True):
        alone = pipe(text, **settings)
        got = got if isinstance(got, list) else [got]
        for one, other in zip(alone, got, strict=True):
            np.testing.assert_array_equal(one["generated_token_ids"], other["generated_token_ids"])


def test_whose_length_counts(made):
    def new(model, settings=None, **call):
        pipe = made("summarization", model, return_tensors=True, num_beams=1, eos_token_id=[], **(settings or {}))
        return len(pipe(TEXTS[0], **call)[0]["summary_token_ids"]) - 1

    assert new("t5") == 256  # not the 12 of task_specific_params
    assert new("bart") == 11  # its own max_length is 12
    assert new("bart", max_length=9) == 8
    assert new("t5", {"max_length": 7}) == 6
    assert new("t5", max_new_tokens=4, min_length=0) == 4
    with pytest.warns(UserWarning, match="max_new_tokens = 256 of the pipeline goes before max_length = 9"):
        assert new("t5", max_length=9) == 256


def test_a_max_length_of_20_is_nobodys_word(made):
    t5 = made("text2text-generation", "t5")
    for length, new in ((20, 256), (21, None)):
        t5.model.generation_config.max_length = length
        config = numtx.pipeline("text2text-generation", t5.model, tokenizer=t5.tokenizer).generation_config
        assert (config.max_length, config.max_new_tokens) == (length, new)


def test_settings_of_the_task_and_of_the_user(made):
    config = made("summarization", "t5").generation_config
    assert (config.num_beams, config.no_repeat_ngram_size, config.min_length) == (3, 2, 5)
    assert made("summarization", "t5", num_beams=2).generation_config.num_beams == 2
    assert made("text2text-generation", "t5").generation_config.num_beams == 4
    assert made("translation", "marian").generation_config.num_beams == 4
    assert made("translation", "marian").generation_config.pad_token_id == 280


def test_a_least_length_of_the_model_gives_way_to_the_users_length(made):
    pipe = made("summarization", "t5", return_tensors=True, num_beams=1)
    assert len(pipe(TEXTS[0], max_new_tokens=2)[0]["summary_token_ids"]) == 3
    with pytest.raises(ValueError, match="min_new_tokens"):
        pipe(TEXTS[0], max_new_tokens=2, min_new_tokens=4)


def test_a_text_over_the_context_is_refused_or_cut(made):
    pipe = made("summarization", "bart", num_beams=1, max_new_tokens=3)
    long = "The assert statement is a convenient way. " * 60
    with pytest.raises(ValueError, match="512"):
        pipe(long)
    assert set(pipe(long, truncation=True)[0]) == {"summary_text"}


def test_the_first_token_of_a_stop_sequence_ends(made):
    pipe = made("text2text-generation", "bart", return_tensors=True, num_beams=1, max_new_tokens=9, min_length=0)
    ids = pipe(TEXTS[0])[0]["generated_token_ids"]
    first, *others = pipe.tokenizer.encode("assert statement", add_special_tokens=False)
    assert others
    with pytest.warns(UserWarning, match="the first alone ends an answer"):
        cut = pipe.chosen({"stop_sequence": "assert statement", "max_new_tokens": 9}).writing.config
    assert cut.eos_token_id == [first]
    ended = pipe(TEXTS[0], eos_token_id=int(ids[3]))[0]["generated_token_ids"]
    np.testing.assert_array_equal(ended, ids[: list(ids[1:]).index(ids[3]) + 2])


def test_what_cannot_be_is_refused(made):
    pipe = made("summarization", "t5")
    for settings, message in (
        ({"num_beam": 2}, "got 'num_beam'; the nearest is 'num_beams'"),
        ({"src_lang": "en"}, "got 'src_lang'"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences of at most num_beams = 2"),
        ({"generation_config": {}}, "expected a numtx GenerationConfig, got dict"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe("a", **settings)
    with pytest.raises(ValueError, match="expected a text, got int"):
        pipe([3])
    with pytest.raises(ValueError, match="summarization expects a model with a head for seq2seq-lm"):
        made("summarization", "gpt2")


def test_a_source_that_is_too_long_is_refused_with_what_cuts_it(made):
    pipe = made("summarization", "bart", num_beams=1, **FEW)
    with pytest.raises(ValueError, match=r"^SummarizationPipeline: .* at most 512 .* \(truncation=True cuts it\)$"):
        pipe("a " * 900)
    assert pipe("a " * 900, truncation=True)


def test_settings_that_contradict_each_other_are_refused_when_the_pipeline_is_made(made):
    with pytest.raises(SettingError, match="expected min_length of at most max_length = 3, got 9"):
        made("summarization", "t5", min_length=9, max_length=3)
    pipe = made("summarization", "t5", min_new_tokens=5)
    with pytest.raises(SettingError, match="expected min_new_tokens of at most max_new_tokens = 4, got 5"):
        pipe("a", max_new_tokens=4)
    with pytest.raises(SettingError, match=r"expected rng as an np\.random\.Generator, got int"):
        pipe("a", rng=3)
