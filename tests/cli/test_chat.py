"""numtx chat: through a pipe, and as a person types."""

from pathlib import Path

import numpy as np
import pytest

from numtx.cli.conversation import Conversation, rendered

TOKENIZERS = Path(__file__).parents[1] / "golden/tokenizers"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
CONTEXT = 96


class Letters:
    """A tokenizer of bytes with a chat template."""

    def apply_chat_template(self, messages, add_generation_prompt=False, return_dict=True):
        assert add_generation_prompt
        assert not return_dict
        text = "".join(f"<{one['role'][0]}>{one['content']}" for one in messages) + "<a>"
        return list(text.encode())

    def text_decoder(self):
        from numtx.text import ByteTokenizer

        return ByteTokenizer().text_decoder()


class Parrot:
    """Says what it is told to, a byte a token, and keeps what it read."""

    def __init__(self, says=(b"yes",), context=CONTEXT):
        self.says, self.read, self.asked = list(says), [], []
        self.config = type("Config", (), {"context": context})

    def generate(self, ids, *, attention_mask, streamer, **settings):
        assert attention_mask.shape == ids.shape
        assert attention_mask.all()
        self.read.append(bytes(ids[0].tolist()).decode())
        self.asked.append(settings)
        for byte in self.says[len(self.read) - 1][: settings["max_new_tokens"]]:
            if byte == 3:
                raise KeyboardInterrupt
            streamer(np.array([byte]))


def talk(says, **settings):
    model = Parrot(says, settings.pop("context", CONTEXT))
    return model, Conversation(model, Letters(), **settings)


def test_what_was_said_is_read_again():
    model, one = talk([b"yes", b"no", b"hm"], system="be brief", tokens=8)
    pieces = []
    assert one.ask("a", pieces.append).text == "yes"
    assert pieces == ["y", "e", "s"]
    one.ask("b", pieces.append)
    assert model.read == ["<s>be brief<u>a<a>", "<s>be brief<u>a<a>yes<u>b<a>"]
    one.forget()
    one.ask("c", pieces.append)
    assert model.read[-1] == "<s>be brief<u>c<a>"


def test_settings_reach_generate():
    model, one = talk([b"yes"], tokens=8, settings={"do_sample": True, "top_p": 0.5})
    answer = one.ask("a", lambda piece: None)
    always = {"num_beams": 1, "num_return_sequences": 1}
    assert model.asked == [{"max_new_tokens": 8, **always, "do_sample": True, "top_p": 0.5}]
    assert (answer.tokens, answer.whole) == (3, True)
    assert answer.seconds > 0


def test_characters_come_whole_and_the_last_bytes_too():
    _, one = talk(["ä€".encode() + b"\xc3"])
    pieces = []
    assert one.ask("a", pieces.append).text == "ä€�"
    assert pieces == ["ä", "€", "�"]


def test_the_oldest_is_forgotten_where_the_context_ends():
    model, one = talk([b"x" * 20] * 4, system="s", tokens=20, context=80)
    for letter in "abcd":
        one.ask(letter * 10, lambda piece: None)
    assert model.read[1] == "<s>s<u>" + "a" * 10 + "<a>" + "x" * 20 + "<u>" + "b" * 10 + "<a>"  # 56 and 20 fit
    assert model.read[2] == "<s>s<u>" + "b" * 10 + "<a>" + "x" * 20 + "<u>" + "c" * 10 + "<a>"
    assert all(len(read) + 20 <= 80 for read in model.read)


def test_a_question_is_forgotten_with_its_answer_and_before_an_answer_is_cut():
    model, one = talk([b"x", b"x" * 20], tokens=20, context=70)
    one.ask("a" * 40, lambda piece: None)
    assert one.ask("b", lambda piece: None).text == "x" * 20
    assert model.read[1] == "<u>b<a>"  # with the first question 54 tokens, and 20 did not fit
    assert [message["role"] for message in one.messages] == ["user", "assistant"]


def test_a_long_message_leaves_less_to_the_answer_or_is_refused():
    model, one = talk([b"x" * 200] * 2, tokens=50, context=40)
    assert one.ask("a" * 24, lambda piece: None).text == "x" * 10
    with pytest.raises(ValueError, match="context of 40 tokens, got 46") as error:
        one.ask("a" * 40, lambda piece: None)
    assert "\n" not in str(error.value)
    assert [message["role"] for message in one.messages] == ["user", "assistant"]  # as before
    assert len(model.read) == 1


def test_an_answer_can_be_stopped():
    _, one = talk([b"abc\x03def", b"\x03", b"x\x03"])
    answer = one.ask("a", lambda piece: None, stop_is_an_end=True)
    assert (answer.text, answer.whole) == ("abc", False)
    assert one.messages[-1]["content"] == "abc"
    assert one.ask("a", lambda piece: None, stop_is_an_end=True).seconds == 0
    kept = list(one.messages)
    with pytest.raises(KeyboardInterrupt):
        one.ask("b", lambda piece: None)
    assert one.messages == kept


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model with random weights that was never taught to talk."""
    pytest.importorskip("tokenizers", reason="needs pip install 'numtx[hub]'")
    pytest.importorskip("jinja2", reason="needs pip install 'numtx[hub]'")
    from numtx.models import GPT2Config, GPT2LMHeadModel
    from numtx.text import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / "gpt2")
    tokenizer.chat_template = TEMPLATE
    sizes = {"n_positions": CONTEXT, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes), rng=0)
    model.draw(np.random.default_rng(1), 0.5)
    path = tmp_path_factory.mktemp("chat")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def expected(folder):
    """What the model answers to messages, greedily in 12 tokens."""
    from numtx import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def answer(*messages, tokens=12, **settings):
        said = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(messages)]
        ids = rendered(tokenizer, settings.pop("system", None), said)
        written = model.generate(ids, max_new_tokens=tokens, **settings)[0, ids.shape[1] :]
        return tokenizer.decode(written, skip_special_tokens=True)

    return answer


def test_through_a_pipe(numtx, folder, expected):
    ran = numtx("chat", folder, "--tokens", 12, "--greedy", stdin=b"hello\n\nab\n/reset\nab\n/quit\nnot read\n")
    assert (ran.code, ran.err) == (0, "")
    first = expected("hello")
    second, third = expected("hello", first, "ab"), expected("ab")
    assert ran.out == "".join(text if text.endswith("\n") else text + "\n" for text in (first, second, third))
    assert second != third


def test_a_system_prompt(numtx, folder, expected):
    out = numtx("chat", folder, "--tokens", 12, "--system", "be kind", stdin=b"hello").out
    assert out.rstrip("\n") == expected("hello", system="be kind").rstrip("\n") != expected("hello").rstrip("\n")


def test_sampling(numtx, folder, expected):
    options = ["--tokens", 12, "--temperature", 1.5, "--top-k", 9, "--top-p", 0.9, "--seed"]
    outs = [numtx("chat", folder, *options, seed, stdin=b"hello\n").out for seed in (4, 4, 5)]
    settings = {"do_sample": True, "temperature": 1.5, "top_k": 9, "top_p": 0.9, "seed": 4}
    assert outs[0].rstrip("\n") == expected("hello", **settings).rstrip("\n")
    assert outs[0] == outs[1] != outs[2]
    greedy = numtx("chat", folder, "--tokens", 12, "--temperature", 0, stdin=b"hello\n").out
    assert greedy.rstrip("\n") == expected("hello").rstrip("\n")
    free = [numtx("chat", folder, "--tokens", 12, "--temperature", 1, stdin=b"hello\n").out for _ in range(2)]
    assert free[0] != free[1]


def test_as_a_person_types(numtx, folder, expected, monkeypatch):
    """An error and Ctrl-C leave the conversation going; Ctrl-D ends it."""
    long = "word " * 200
    typed = iter(["/help", "/what", long, "  hello  ", ""])

    def read(prompt):
        assert prompt == "> "
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("numtx.cli.chat.typing_person", lambda screen: True)
    ran = numtx("chat", folder, "--tokens", 12)
    assert ran.code == 0
    assert "/reset" in ran.out
    assert expected("hello") in ran.out
    assert "12 tokens, " in ran.out
    assert "tokens/s" in ran.out
    errors = ran.err.splitlines()
    assert len(errors) == 2
    assert "/quit, /reset, /help, got '/what'" in errors[0]
    assert f"context of {CONTEXT}" in errors[1]


def test_ctrl_c_in_a_pipe_ends_the_line(numtx, folder, monkeypatch):
    def interrupted(self, ids, *, streamer, **settings):
        streamer(np.array([self.config.vocab_size - 2]))
        raise KeyboardInterrupt

    monkeypatch.setattr("numtx.models.GPT2LMHeadModel.generate", interrupted)
    ran = numtx("chat", folder, stdin=b"hello\n")
    assert (ran.code, ran.err) == (130, "")
    assert ran.out.endswith("\n")


def test_bad_input(numtx, folder, tmp_path):
    ran = numtx("chat", folder, stdin=b"/forget\n")
    ran.refused(2, "/quit", "'/forget'")
    numtx("chat", folder, stdin=b"a\n\xff\n").refused(1, "UTF-8", "line 2")
    numtx("chat", folder, stdin=("word " * 200).encode()).refused(1, "context")
    for greedy in ([], ["--greedy"], ["--temperature", 0]):
        numtx("chat", folder, "--top-p", 1.5, *greedy).refused(2, "top_p")
    numtx("chat", folder, "--temperature", -1).refused(2, "--temperature")
    numtx("chat", folder, "--tokens", 0).refused(2, "--tokens")
    numtx("chat", tmp_path / "no" / "such" / "place").refused(1, "does not exist")
    numtx("chat").refused(2, "MODEL")


def test_a_model_without_template_or_head(numtx, folder, tmp_path, monkeypatch):
    from numtx.checkpoints import read_json, write_json
    from numtx.models import GPT2LMHeadModel

    def loaded(*_, **__):
        raise AssertionError("the weights were read first")

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = read_json(tmp_path / "tokenizer_config.json")
    write_json(tmp_path / "tokenizer_config.json", {**config, "chat_template": "{{ raise_exception('no chat') }}"})
    monkeypatch.setattr(GPT2LMHeadModel, "from_arrays", loaded)
    numtx("chat", tmp_path).refused(1, "no chat")
    del config["chat_template"]
    write_json(tmp_path / "tokenizer_config.json", config)
    numtx("chat", tmp_path).refused(1, "chat template")


def test_generate_goes_on_with_any_causal_model(numtx, folder):
    from numtx import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = np.array([tokenizer("hello there").input_ids])
    expected = "hello there" + tokenizer.decode(model.generate(ids, max_new_tokens=9)[0, ids.shape[1] :])
    out = numtx("generate", folder, "--prompt", "hello there", "--tokens", 9, "--greedy").out
    assert out.rstrip("\n") == expected.rstrip("\n")
    assert numtx("generate", folder, "--tokens", 3).code == 0
