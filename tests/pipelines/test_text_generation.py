"""Text generation: prompts and conversations, whose settings count, batches that change nothing."""

import numpy as np
import pytest
from written_questions import ENDS, make_folders

import numtx

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
pytest.importorskip("sentencepiece", reason="no sentencepiece: pip install 'numtx[hub]'")

GREEDY = {"do_sample": False, "max_new_tokens": 6}
CHAT = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who is it?"}]
PROMPTS = ["The assert", "a", "convenient way to insert debugging", "", "Zürich 😀", "x=y (see)"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("models"), ("gpt2", "llama", "t5"))


@pytest.fixture(scope="module")
def gpt2(folders):
    return numtx.pipeline("text-generation", folders["gpt2"])


@pytest.fixture(scope="module")
def llama(folders):
    return numtx.pipeline("text-generation", folders["llama"])


def test_the_prompt_comes_back_or_not(gpt2):
    (full,) = gpt2("The assert", **GREEDY)
    (added,) = gpt2("The assert", return_full_text=False, **GREEDY)
    assert full["generated_text"] == "The assert" + added["generated_text"]
    ids = gpt2.tokenizer("The assert")["input_ids"]
    (tokens,) = gpt2("The assert", return_tensors=True, **GREEDY)
    assert tokens["generated_token_ids"][: len(ids)] == ids
    assert tokens["generated_token_ids"] == gpt2.model.generate(np.array([ids]), **GREEDY)[0].tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eos_token_id": ENDS},
        {"num_beams": 2, "num_return_sequences": 2, "eos_token_id": ENDS},
        {"max_new_tokens": None, "max_length": 60, "min_length": 40, "eos_token_id": ENDS},
        {"no_repeat_ngram_size": 1, "sequence_bias": [[[2], 99.0]]},  # which likes padding
        {"no_repeat_ngram_size": 2},
        {"encoder_no_repeat_ngram_size": 1, "sequence_bias": [[[2], 99.0]]},
        {"encoder_repetition_penalty": 3.0},
        {"repetition_penalty": 1.5},
        {"stop_strings": ["e", "m"]},
    ],
)
def test_batches_change_nothing(llama, settings):
    settings = {**GREEDY, "return_tensors": True, **settings}
    alone = [llama(prompt, **settings) for prompt in PROMPTS]
    assert llama(PROMPTS, batch_size=4, **settings) == alone
    assert llama(PROMPTS, **settings) == alone


def test_beside_a_long_prompt_a_short_one_writes_as_much_as_alone(folders):
    gpt2 = numtx.pipeline("text-generation", folders["gpt2"])
    gpt2.tokenizer.pad_token = gpt2.tokenizer.eos_token  # without one, no batches
    long = "a b c " * 100
    tokens = len(gpt2.tokenizer(long)["input_ids"])
    # Padding before the short one would leave it as little of the context as the long one has, which stops it.
    assert 256 < tokens < 512
    settings = {"do_sample": False, "eos_token_id": [], "return_tensors": True}
    alone = [gpt2(prompt, **settings) for prompt in (long, "a")]
    assert gpt2([long, "a"], batch_size=2, **settings) == alone


def test_a_generator_is_answered_lazily(gpt2):
    taken = []
    answers = gpt2((taken.append(i) or prompt for i, prompt in enumerate(PROMPTS)), **GREEDY)
    assert next(answers) == gpt2(PROMPTS[0], **GREEDY)
    assert taken == [0]


def test_an_empty_prompt_starts_from_the_start_token(gpt2):
    (answer,) = gpt2("", return_tensors=True, **GREEDY)
    assert answer["generated_token_ids"] == gpt2.model.generate(None, **GREEDY)[0].tolist()


def test_without_a_start_token_an_empty_prompt_is_refused(folders):
    made = numtx.pipeline("text-generation", folders["gpt2"])
    made.generation_config.bos_token_id = None
    with pytest.raises(ValueError, match="expected a prompt, or a bos_token_id to start from"):
        made("", **GREEDY)


def test_a_seed_makes_a_draw_again(gpt2):
    options = {"max_new_tokens": 12, "seed": 3}
    once = gpt2(PROMPTS, **options)
    assert once == gpt2(PROMPTS, **options)
    assert once != gpt2(PROMPTS, **{**options, "seed": 4})
    rng = np.random.default_rng(3)
    assert once == gpt2(PROMPTS, max_new_tokens=12, rng=rng)
    for size in (2, 4):  # and the same again for each way to make batches, of which each may draw its own
        assert gpt2(PROMPTS, batch_size=size, **options) == gpt2(PROMPTS, batch_size=size, **options)
    assert "for the same list and" in type(gpt2).__doc__
    twice = gpt2([PROMPTS[0]] * 4, batch_size=2, num_return_sequences=2, **options)
    assert len({one["generated_text"] for answers in twice for one in answers}) > 6


def test_sampling_is_what_happens_if_nobody_says_otherwise(gpt2):
    config = gpt2.generation_config
    assert (config.do_sample, config.temperature, config.max_new_tokens) == (True, 0.7, 256)
    assert config.eos_token_id == 5


def test_256_new_tokens_are_the_most_and_the_context_less(gpt2):
    prompt = "a b c " * 100
    ids = gpt2.tokenizer(prompt)["input_ids"]
    assert 256 < len(ids) < 512
    answers = gpt2([prompt, "a"], do_sample=False, eos_token_id=None, return_tensors=True)
    lengths = [len(one[0]["generated_token_ids"]) for one in answers]
    assert lengths == [512, 256 + len(gpt2.tokenizer("a")["input_ids"])]
    with pytest.raises(ValueError, match="expected a length of at most 512"):
        gpt2(prompt, do_sample=False, max_new_tokens=256)
    with pytest.raises(ValueError, match="cut the prompt"):
        gpt2(prompt * 2, do_sample=False)


def test_a_max_length_of_a_call_does_not_count_beside_the_256(folders):
    made = numtx.pipeline("text-generation", folders["gpt2"], do_sample=False, eos_token_id=None)
    with pytest.warns(UserWarning, match=r"max_new_tokens = 256 of the pipeline goes before max_length = 9"):
        (answer,) = made("a", max_length=9, return_tensors=True)
    assert len(answer["generated_token_ids"]) == 256 + 1
    made = numtx.pipeline("text-generation", folders["gpt2"], do_sample=False, eos_token_id=None, max_length=9)
    assert len(made("a", return_tensors=True)[0]["generated_token_ids"]) == 9
    assert len(made("a", return_tensors=True, max_length=7)[0]["generated_token_ids"]) == 7


def test_a_conversation_gets_one_message_more(llama):
    (answer,) = llama(CHAT, **GREEDY)
    assert answer["generated_text"][:-1] == CHAT
    assert answer["generated_text"][-1]["role"] == "assistant"
    text = llama.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    (plain,) = llama(text, return_full_text=False, add_special_tokens=False, **GREEDY)
    assert answer["generated_text"][-1]["content"] == plain["generated_text"]
    assert llama([CHAT, CHAT[1:]], **GREEDY)[0] == [answer]


def test_the_last_message_goes_on_if_it_is_the_assistants(llama):
    begun = [*CHAT, {"role": "assistant", "content": "It is"}]
    (answer,) = llama(begun, **GREEDY)
    assert len(answer["generated_text"]) == 3
    assert answer["generated_text"][-1]["content"].startswith("It is")
    (other,) = llama(begun, continue_final_message=False, **GREEDY)
    assert [one["role"] for one in other["generated_text"]] == ["system", "user", "assistant", "assistant"]


def test_spaces_before_punctuation_go_if_they_are_to(gpt2, folders, monkeypatch):
    encode = gpt2.tokenizer.encode
    monkeypatch.setattr(gpt2, "write", lambda rows, _: [np.array([encode("Who is it ? So , no .")]) for _ in rows])
    assert gpt2("Who is it ?") == [{"generated_text": "Who is it ? So, no."}]  # the prompt stays as it is
    assert gpt2("Who is it ?", clean_up_tokenization_spaces=False) == [{"generated_text": "Who is it ? So , no ."}]
    t5 = numtx.pipeline("text2text-generation", folders["t5"])
    ids = np.array([t5.tokenizer.encode("So , no .")])
    monkeypatch.setattr(t5, "write", lambda rows, _: [ids for _ in rows])
    assert t5("a") == [{"generated_text": "So , no ."}]
    assert t5("a", clean_up_tokenization_spaces=True) == [{"generated_text": "So, no."}]


def test_a_streamer_sees_the_tokens(gpt2):
    seen = []
    (answer,) = gpt2("The assert", streamer=lambda ids: seen.extend(ids.tolist()), return_tensors=True, **GREEDY)
    assert answer["generated_token_ids"][-len(seen) :] == seen
    assert len(seen) == 6


def test_stop_strings_need_no_tokenizer_of_the_user(gpt2):
    (answer,) = gpt2("The assert", do_sample=False, return_full_text=False, max_new_tokens=30)
    text = answer["generated_text"]
    (short,) = gpt2("The assert", do_sample=False, return_full_text=False, max_new_tokens=30, stop_strings=[text[3:5]])
    assert len(short["generated_text"]) < len(text)
    assert text[3:5] in short["generated_text"]


BAD = {
    "unknown": ({"max_new_token": 3}, "got 'max_new_token'; the nearest is 'max_new_tokens'"),
    "own": ({"return_ful_text": False}, "got 'return_ful_text'; the nearest is 'return_full_text'"),
    "both": ({"return_full_text": True, "return_tensors": True}, "got two of them"),
    "text and tensors": ({"return_text": True, "return_tensors": True}, "return_text or return_tensors, got both"),
    "temperature": ({"temperature": -1.0}, "expected temperature as a number of at least 0, got -1.0"),
    "top_p": ({"top_p": 1.5}, "top_p as a number in"),
    "beams": ({"num_beams": 0}, "num_beams"),
    "rows": ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences of at most num_beams"),
    "dict": ({"return_dict_in_generate": True}, "expected no return_dict_in_generate"),
    "hole": ({"handle_long_generation": "cut"}, "expected handle_long_generation None or 'hole', got 'cut'"),
    "seed": ({"seed": -1}, "expected seed as a whole number of at least 0, got -1"),
    "seed and rng": ({"seed": 1, "rng": np.random.default_rng(0)}, "expected seed or rng, got both"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused(gpt2, folders, case):
    settings, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        gpt2("a", **settings)
    with pytest.raises(ValueError, match=message):
        numtx.pipeline("text-generation", folders["gpt2"], **settings)("a")


def test_other_inputs_are_refused(gpt2, llama, folders):
    with pytest.raises(ValueError, match="expected a text, or a conversation"):
        gpt2([3], **GREEDY)
    with pytest.raises(ValueError, match=r"expected messages with role and content, got \['role'\]"):
        llama([{"role": "user"}], **GREEDY)
    with pytest.raises(ValueError, match="expected a tokenizer with a chat template"):
        gpt2(CHAT, **GREEDY)
    with pytest.raises(ValueError, match="expected the content of a message as a text, got int"):
        llama([{"role": "user", "content": 3}], **GREEDY)
    with pytest.raises(ValueError, match=r"expected tokenizer_encode_kwargs as a dict of options .*, got 3$"):
        gpt2("a", tokenizer_encode_kwargs=3, **GREEDY)
    with pytest.raises(ValueError, match="text-generation expects a model with a head for causal-lm"):
        numtx.pipeline("text-generation", folders["t5"])
    assert gpt2([], **GREEDY) == []
