"""Byte-pair encoding over characters: the pair of neighbours that is seen most often becomes one piece, and so on.

Sennrich, Haddow and Birch (2016), algorithm 1. A word begins with the sign "▁", so that text can be put together again.
"""

from collections import Counter, defaultdict
from itertools import pairwise

PAD, START, END, UNKNOWN = range(4)


class Subwords:
    """Text to ids and back.

    Parameters
    ----------
    texts : iterable of str
        What the pieces are learned from.
    merges : int
        How many pieces are made of two.
    """

    def __init__(self, texts, merges):
        counts = Counter(word for text in texts for word in words_of(text))
        learned = learn_merges(counts, merges)
        self.rank = {pair: i for i, pair in enumerate(learned)}
        pieces = sorted({sign for word in counts for sign in word}) + ["".join(pair) for pair in learned]
        self.pieces = ["", "", "", "?", *dict.fromkeys(pieces)]
        self.id_of = {piece: i for i, piece in enumerate(self.pieces) if i > UNKNOWN}
        self._split = {}

    def __len__(self):
        return len(self.pieces)

    def encode(self, text):
        """Return the ids of a text."""
        return [self.id_of.get(piece, UNKNOWN) for word in words_of(text) for piece in self.split(word)]

    def decode(self, ids):
        """Return the text of ids; padding, start and end have none."""
        return "".join(self.pieces[i] for i in ids).replace("▁", " ").strip()

    def split(self, word):
        """Return the pieces of a word: the merges that were learned, in their order."""
        if word not in self._split:
            pieces = list(word)
            while pairs := [pair for pair in pairwise(pieces) if pair in self.rank]:
                pieces = merged(pieces, min(pairs, key=self.rank.__getitem__))
            self._split[word] = pieces
        return self._split[word]


def words_of(text):
    """Return the words of a text, each with the sign that begins a word."""
    return ["▁" + word for word in text.split()]


def merged(pieces, pair):
    """Return the pieces with each occurrence of a pair made one.

    >>> merged(["a", "b", "a", "b", "c"], ("a", "b"))
    ['ab', 'ab', 'c']
    """
    result, i = [], 0
    while i < len(pieces):
        if tuple(pieces[i : i + 2]) == pair:
            result.append(pieces[i] + pieces[i + 1])
            i += 2
        else:
            result.append(pieces[i])
            i += 1
    return result


def learn_merges(counts, merges):
    """Return the pairs that are merged, in order, from how often each word occurs."""
    words = {word: list(word) for word in counts}
    pairs, where = Counter(), defaultdict(set)  # how often a pair occurs, and in which words
    for word in words:
        note(words[word], counts[word], word, pairs, where)
    learned = []
    for _ in range(merges):
        best = max(pairs, key=lambda pair: (pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        learned.append(best)
        for word in where.pop(best):
            for pair in pairwise(words[word]):
                pairs[pair] -= counts[word]
            words[word] = merged(words[word], best)
            note(words[word], counts[word], word, pairs, where)
    return learned


def note(pieces, count, word, pairs, where):
    """Count the pairs of neighbours of a word."""
    for pair in pairwise(pieces):
        pairs[pair] += count
        where[pair].add(word)
