"""Chat templates: Jinja2 in a sandbox, with the functions that Transformers gives to templates."""

import functools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any

import numpy as np

from numtx.checkpoints.extras import need

# Older ones have known ways out of the sandbox, and a template comes from whoever made the file.
_OLDEST_JINJA = (3, 1, 6)
_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "
SECONDS = 20.0  # a template takes milliseconds; what takes as long as this does not end
LONGEST = 10_000_000  # what a product may make: characters, entries, or digits of a number
_OF_A_TEMPLATE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
_until: ContextVar[float] = ContextVar("until")


def render_chat(
    messages: Sequence[Mapping[str, Any]],
    template: str,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Return a conversation as the text that `template` makes of it.

    Parameters
    ----------
    messages : list of dict
        ``[{"role": "user", "content": "Hello"}, ...]``; keys whose value is None are left out.
    template : str
        Jinja2. It sees `messages`, `tools`, `documents`, `add_generation_prompt` and `variables`, copied into plain
        lists, dicts, strings and numbers, and ``raise_exception``, ``strftime_now``, ``tojson``.
    tools, documents : list of dict, optional
        Tools as JSON schemas.
    add_generation_prompt : bool
        End with what opens the answer.
    continue_final_message : bool
        End inside the last message, so that the model writes on in it.
    variables : dict, optional
        Special tokens and whatever else the template reads.

    Raises
    ------
    ValueError
        In one line, if the messages are not dicts, or the template is broken, raises, reaches for what it must not, has
        not ended after 20 seconds, or needs more memory than there is.
    ImportError
        If Jinja2 is absent, or older than 3.1.6.

    Notes
    -----
    The clock is looked at in each round of a loop and at each call, and products are bounded. What one filter does with
    long lists or texts is not: of memory a template may take what there is.
    """
    chat = _checked(messages)
    final = ""
    if continue_final_message:
        if add_generation_prompt:
            raise ValueError(
                "apply_chat_template: expected add_generation_prompt or continue_final_message, got both at once"
            )
        if not isinstance(chat[-1].get("content"), str):
            raise ValueError("apply_chat_template: expected a last message with text to continue, got none")
        final = chat[-1]["content"]
        chat[-1]["content"] = final + _CONTINUE
    names = {
        **_plain(dict(variables or {})),
        "messages": chat,
        "tools": _tools(tools),
        "documents": _plain(None if documents is None else list(documents)),
        "add_generation_prompt": add_generation_prompt,
    }
    text = _render(template, names)
    return _cut(text, final) if continue_final_message else text


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise ValueError(f"apply_chat_template: expected a list of messages, got {type(messages).__name__}")
    if not messages:
        raise ValueError("apply_chat_template: expected at least one message, got none")
    for message in messages:
        if not isinstance(message, Mapping):
            raise ValueError(f"apply_chat_template: expected messages that are dicts, got {type(message).__name__}")
    return [{key: value for key, value in _plain(message).items() if value is not None} for message in messages]


def _tools(tools: Sequence[Mapping[str, Any]] | None) -> Any:
    for tool in tools or ():
        if not isinstance(tool, Mapping):
            raise ValueError(f"apply_chat_template: expected tools as JSON schemas, got {type(tool).__name__}")
    return _plain(None if tools is None else list(tools))


def _plain(value: Any) -> Any:
    """Return `value` in JSON's types; anything else, whose methods a template might call, as its type's name."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"


def _render(template: str, names: dict[str, Any]) -> str:
    jinja2 = need("jinja2", extra="hub")
    token = _until.set(time.monotonic() + SECONDS)
    try:
        return _compiled(template).render(**names)
    except jinja2.TemplateError as error:
        raise ValueError(f"apply_chat_template: expected a template that renders, got: {_line(error)}") from None
    except _OF_A_TEMPLATE as error:
        kind = type(error).__name__
        raise ValueError(f"apply_chat_template: expected a template that renders, got {kind}: {_line(error)}") from None
    finally:
        _until.reset(token)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _cut(text: str, final: str) -> str:
    """Return `text` up to the end of the final message, whose end carries the tag."""
    place = text.rfind(_CONTINUE.strip())
    if place < 0 or final.strip() not in text:
        raise ValueError(
            "apply_chat_template: expected the last message in what the template gives, got a text without"
        )
    kept = text[:place]
    # A template that trims messages took the tag's space: then the message's own trailing spaces are gone as well.
    return kept if text[place : place + len(_CONTINUE)] == _CONTINUE else kept.rstrip()


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> Any:
    return _environment().from_string(template)


@functools.cache
def _environment() -> Any:
    jinja2 = need("jinja2", extra="hub")
    version = tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdigit())
    if version < _OLDEST_JINJA:
        raise ImportError(
            f"apply_chat_template: expected jinja2 of 3.1.6 or later, got {jinja2.__version__} "
            "(pip install -U 'numtx[hub]')"
        )
    from jinja2.compiler import CodeGenerator
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import Filter, For, Scope
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what an assistant says; here it only opens a scope."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return Scope(body).set_lineno(line)

    class WithClock(CodeGenerator):
        """What a loop goes through comes by way of `_on_time`."""

        def visit_Template(self, node: Any, frame: Any = None) -> None:  # noqa: N802
            for loop in list(node.find_all(For)):
                loop.iter = Filter(loop.iter, "_on_time", [], [], None, None).set_lineno(loop.lineno)
            super().visit_Template(node, frame)

    class Environment(ImmutableSandboxedEnvironment):
        """A sandbox that looks at the clock, and in which products are bounded."""

        code_generator_class = WithClock
        intercepted_binops = frozenset(["*", "**"])

        def call(self, /, *args: Any, **kwargs: Any) -> Any:
            _look_at_the_clock()
            return super().call(*args, **kwargs)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_product(operator, left, right)
            return super().call_binop(context, operator, left, right)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    environment.filters["tojson"] = _to_json
    environment.filters["_on_time"] = _on_time
    del environment.globals["lipsum"]  # which writes as much as it is asked for
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _look_at_the_clock() -> None:
    if time.monotonic() > _until.get():
        raise need("jinja2", extra="hub").TemplateError(f"it has not ended after {SECONDS:g} seconds")


def _on_time(entries: Iterable[Any]) -> Iterator[Any]:
    for entry in entries:
        _look_at_the_clock()
        yield entry


def _check_product(operator: str, left: Any, right: Any) -> None:
    """Refuse a product that would be huge before it is computed."""
    if operator == "**":
        size = abs(right) * left.bit_length() / 3 if isinstance(left, int) and isinstance(right, int) else 0
    else:
        long, times = (left, right) if hasattr(left, "__len__") else (right, left)
        size = len(long) * times if hasattr(long, "__len__") and isinstance(times, int) else 0
    if size > LONGEST:
        raise need("jinja2", extra="hub").TemplateError(f"a product of {operator} is too long")


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
):
    # Jinja's own escapes <, > and & for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise need("jinja2", extra="hub").TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
