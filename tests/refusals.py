"""What every refusal is: a ValueError of one line."""

import pytest


def one_line(pattern):
    """A context in which a ValueError comes whose only line begins with this pattern."""
    return pytest.raises(ValueError, match=rf"\A(?![\s\S]*\n)(?:{pattern})")
