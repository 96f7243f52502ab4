"""Chat templates: what they see, what they may do, and how their errors come out."""

import datetime
import sys

import numpy as np
import pytest
from tokenizer_questions import CHAT, FOLDERS

from numtx.text import AutoTokenizer, chat
from numtx.text.chat import render_chat

pytest.importorskip("jinja2", reason="no jinja2: pip install 'numtx[hub]'")

USER = [{"role": "user", "content": "hi"}]


def test_what_templates_expect_of_the_environment():
    # Blocks take the line end after them and the spaces before them; loops break; JSON is not HTML's.
    template = (
        "{% for m in messages %}\n   {% if loop.index > 1 %}{% break %}{% endif %}\n{{ m | tojson }}\n{% endfor %}"
    )
    assert render_chat([{"a": "<ü>"}, {}], template) == '{"a": "<ü>"}\n'
    assert render_chat(USER, "{{ strftime_now('%Y') }}") == str(datetime.datetime.now().year)
    assert render_chat(USER, "{% generation %}x{% endgeneration %}{{ tools }}{{ documents }}") == "xNoneNone"
    assert render_chat(USER, "{{ [1] | tojson(indent=1) }}{{ bos }}", variables={"bos": "<s>"}) == "[\n 1\n]<s>"


def test_keys_without_a_value_are_left_out():
    assert render_chat([{"role": "user", "content": None}], "{{ messages[0] | tojson }}") == '{"role": "user"}'


def test_a_template_sees_plain_values_alone():
    chat = [{"role": "user", "content": [{"type": "image", "image": np.ones(3)}, {"type": "text", "n": np.int64(3)}]}]
    shown = render_chat(chat, "{{ messages[0].content[0].image }} {{ messages[0].content[1].n + 1 }}")
    assert shown == "<ndarray> 4"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ cycler.__init__.__globals__.os.popen('echo') }}",
        "{{ raise_exception.__globals__.sys }}",
        "{{ (messages | attr('__class__')).__base__.__subclasses__() }}",
        "{% import 'os' as os %}",
        "{% include '/etc/passwd' %}",
        "{{ range(10 ** 9) | list | length }}",
        "{{ raise_exception('only two\nroles') }}",
        "{{ messages[0].content.no.such }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{% for",
        "{{ '%s' | format }}",
        "{{ 'a' * 10**11 }}",
        "{{ 10**11 * 'a' }}",
        "{{ 10 ** (10 ** 9) }}",
        "{{ 'a' | center(10 ** 15) }}",
        "{{ lipsum(n=1000000) }}",
    ],
)
def test_what_a_template_must_not_do_is_one_line(template):
    before = [dict(message) for message in USER]
    with pytest.raises(ValueError, match=r"^apply_chat_template: expected a template that renders") as caught:
        render_chat(USER, template)
    assert "\n" not in str(caught.value)
    assert before == USER


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set all = range(99999) %}{% for i in all %}{% for j in all %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) if n else '' }}{{ f(n - 1) if n else '' }}{% endmacro %}{{ f(60) }}",
        "{% for x in [1] recursive %}{{ loop([1, 2]) if loop.depth < 60 else '' }}{% endfor %}",
    ],
)
def test_a_template_that_does_not_end_is_stopped(template, monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.05)
    with pytest.raises(ValueError, match=r"got: it has not ended after 0\.05 seconds$"):
        render_chat(USER, template)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            "{% for m in messages %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ loop.revindex0 }}{% endfor %}",
            "1True10",
        ),
        ("{% for m in nothing %}x{% else %}none{% endfor %}", "none"),
        ("{% for k, v in messages[0].items() %}{{ k }} {{ v }},{% endfor %}", "role user,content Hi,"),
        (
            "{% for x in range(6) if x % 2 %}{{ x }}{{ loop.nextitem }}{% if x>2 %}{% break %}{% endif %}{% endfor %}",
            "1335",
        ),
        ("{{ 2 ** 3 }} {{ 'ab' * 2 }} {{ [1] * 2 }} {{ 3 * 0.5 }}", "8 abab [1, 1] 1.5"),
    ],
)
def test_loops_and_products_are_what_they_were(template, text):
    assert render_chat([{"role": "user", "content": "Hi"}], template) == text


def test_a_template_says_why_it_refuses():
    with pytest.raises(ValueError, match="got: roles must alternate"):
        render_chat(USER, "{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    ("messages", "words"),
    [("hi", "got str"), ({"role": "user"}, "got dict"), ([], "got none"), (["hi"], "that are dicts, got str")],
)
def test_messages_that_are_none(messages, words):
    with pytest.raises(ValueError, match=words):
        render_chat(messages, "x")


def test_tools_are_schemas():
    assert render_chat(USER, "{{ tools[0].name }}", tools=[{"name": "add"}]) == "add"
    with pytest.raises(ValueError, match="JSON schemas, got builtin_function_or_method"):
        render_chat(USER, "", tools=[print])


def test_the_last_message_is_continued():
    template = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"
    assert render_chat(CHAT, template, continue_final_message=True) == "[Be brief.][Is 1 < 2 & 'so' on?][Yes."
    kept = render_chat(CHAT, "{{ messages[2].content }}!", continue_final_message=True)
    assert kept == "Yes. "
    with pytest.raises(ValueError, match="last message in what the template gives"):
        render_chat(CHAT, "no messages", continue_final_message=True)
    with pytest.raises(ValueError, match="both at once"):
        render_chat(CHAT, template, continue_final_message=True, add_generation_prompt=True)
    with pytest.raises(ValueError, match="text to continue"):
        render_chat([{"role": "user"}], template, continue_final_message=True)


def test_an_older_jinja_is_refused(monkeypatch):
    from numtx.text import chat

    monkeypatch.setattr(sys.modules["jinja2"], "__version__", "3.1.2")
    chat._environment.cache_clear()
    chat._compiled.cache_clear()
    try:
        with pytest.raises(ImportError, match=r"3\.1\.6 or later, got 3\.1\.2"):
            render_chat(USER, "x")
    finally:
        chat._environment.cache_clear()


def test_of_a_tokenizer():
    pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / "bert")
    with pytest.raises(ValueError, match="a tokenizer with a chat template, got one without"):
        tokenizer.apply_chat_template(USER)
    assert tokenizer.apply_chat_template(USER, chat_template="{{ cls_token }}{{ x }}", tokenize=False, x=3) == "[CLS]3"
    encoded = tokenizer.apply_chat_template([USER, CHAT], chat_template="of the", padding=True, return_tensors="np")
    assert encoded.input_ids.shape == encoded.attention_mask.shape
    # The template writes the special tokens.
    assert tokenizer.cls_token_id not in encoded.input_ids
    ids = tokenizer.apply_chat_template(USER, chat_template="of the", return_dict=False)
    assert ids == encoded.input_ids[0].tolist()
    with pytest.raises(ValueError, match="return_assistant_tokens_mask"):
        tokenizer.apply_chat_template(USER, chat_template="x", return_assistant_tokens_mask=True)
    tokenizer.chat_template = {"default": "a", "tool_use": "b"}
    assert tokenizer.get_chat_template() == "a"
    assert tokenizer.get_chat_template(tools=[]) == tokenizer.get_chat_template("tool_use") == "b"
    tokenizer.chat_template = {"one": "a"}
    with pytest.raises(ValueError, match="among one"):
        tokenizer.get_chat_template()


def test_templates_are_saved(tmp_path):
    pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / "bert")
    for i, template in enumerate(("{{ messages }}", {"default": "a", "rag": "b"})):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / str(i))
        assert AutoTokenizer.from_pretrained(tmp_path / str(i)).chat_template == template
