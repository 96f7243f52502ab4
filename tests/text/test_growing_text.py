"""Text that arrives piece by piece ends as the whole of it."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from numtx.text.growing_text import GrowingReplacement, GrowingText
from numtx.text.pretrained import _CLEANED, PretrainedTokenizer

# What the clean-up looks for, and what may stand between.
texts = st.text(st.sampled_from(" '.,ntsmver"), max_size=30)
cuts = st.lists(st.integers(0, 30), max_size=12)


def pieces(text, cuts):
    """The text, cut at some places."""
    return [text[start:end] for start, end in pairwise(sorted({0, *cuts, len(text)}))]


class Characters:
    """A tokenizer whose ids are characters."""

    def _decode_ids(self, ids, skip_special_tokens):
        return "".join(map(chr, ids))


@given(text=texts, cuts=cuts, pair=st.sampled_from([*_CLEANED, (" ' '", " '"), ("'''", "''")]))
@example(text="  '  b", cuts=[4], pair=(" ' ", "'"))  # what was put in is not looked at again
def test_a_replacement_piece_by_piece_is_that_of_the_whole(text, cuts, pair):
    growing, shown, read = GrowingReplacement(*pair), "", ""
    for piece in pieces(text, cuts):
        shown, read = shown + growing.replace(piece), read + piece
        assert read.replace(*pair).startswith(shown)
        assert len(shown) > len(read.replace(*pair)) - len(pair[0])  # no more is held back than may be a beginning
    assert shown + growing.replace("", final=True) == text.replace(*pair)


@given(text=texts, cuts=cuts)
@example(text="0 ' 0", cuts=[1, 3])
@example(text="a ' .b", cuts=[2, 3, 4, 5])  # the point is joined first, and the quote then has no space behind it
def test_the_clean_up_piece_by_piece_is_that_of_the_whole(text, cuts):
    growing = GrowingText(Characters(), False, _CLEANED)
    parts = [growing.decode([ord(character) for character in piece]) for piece in pieces(text, cuts)]
    assert "".join(parts) + growing.decode([], final=True) == PretrainedTokenizer.clean_up_tokenization(text)


def test_words_do_not_wait():
    growing = GrowingText(Characters(), False, _CLEANED)
    parts = ["The", " end", " ,", " don", " '", " t", " n't", " stop", " ."]
    shown = [growing.decode([ord(character) for character in part]) for part in parts]
    assert shown == ["The", " end", ",", " don", "", "'t", "n't", " stop", "."]
