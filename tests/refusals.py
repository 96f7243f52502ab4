"""What every refusal is: a ValueError of one line."""

import pytest


def one_line(pattern):
    """A context in which a ValueError comes whose only line begins with this pattern."""
    return pytest.raises(ValueError, match=rf"\A(?![\s\S]*\n)(?:{pattern})")


def refused_in_one_line(call, owner, words):
    """Require that a call is refused in the name of its owner, by a line with these words."""
    with one_line(f"{owner}: ") as raised:
        call()
    for word in words:
        assert word in str(raised.value)
