"""Opens damaged models through the Auto classes in a process of its own, its memory limited; says what became of them.

python tests/model_mutants.py FOLDER SEED COUNT

FOLDER is empty; a small model of each family is written into it. Half of the mutants have one entry of their config
set to something strange or taken out; the rest have the bytes of a file damaged as in `mutants.py`. Each must open, and
then compute and be saved, or raise a ValueError of one line; a model that opened may refuse its batch, or to be
saved, in one line.
"""

import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from mutants import damaged, limit_memory
from small_families import FAMILIES

import numtx

HEADS = {
    "bert": numtx.AutoModelForSequenceClassification,
    "roberta": numtx.AutoModelForMaskedLM,
    "distilbert": numtx.AutoModelForQuestionAnswering,
    "gpt2": numtx.AutoModelForCausalLM,
    "llama": numtx.AutoModelForCausalLM,
    "bart": numtx.AutoModelForSeq2SeqLM,
    "marian": numtx.AutoModelForSeq2SeqLM,
    "t5": numtx.AutoModelForSeq2SeqLM,
    "t5 sequence": numtx.AutoModelForSequenceClassification,
    "t5 tokens": numtx.AutoModelForTokenClassification,
    "t5 spans": numtx.AutoModelForQuestionAnswering,
}
GONE = object()
STRANGE = [
    GONE, None, True, False, -1, 0, 1, 3, 128, 5000, 10**7, 2**40, 2**70, 10**400, 0.5, 1.5, -0.5, float("inf"),
    float("nan"), "", "x", "false", "12", [], [1], ["x"], [[1]], {}, {"a": 1}, {"0": "a"}, {"rope_type": "linear"},
]  # fmt: skip
MORE = ("num_labels", "id2label", "model_type", "architectures", "problem_type", "rope_scaling", "rope_parameters")
IDS = np.array([[1, 2, 3, 2]])


def changed(config, rng):
    """Return a config with one entry that is strange."""
    entry = str(rng.choice([*config, *MORE]))
    value = STRANGE[rng.integers(len(STRANGE))]
    config = {**config, entry: value}
    if value is GONE:
        del config[entry]
    return config, f"{entry}: {'gone' if value is GONE else repr(value)[:40]}"


def outcome(opener, folder):
    """Open, compute and save: 'refused', 'opened', or 'opened and refused', its batch or its saving."""
    became = "refused"
    try:
        model = opener.from_pretrained(folder)
        became = "opened and refused"
        target = {"decoder_input_ids": IDS} if opener is numtx.AutoModelForSeq2SeqLM else {}
        model(IDS, **target)
        model.save_pretrained(folder / "saved")
        became = "opened"
    except ValueError as error:
        if "\n" in str(error) or len(str(error)) > 4000:
            raise AssertionError("expected an error of one line that can be read") from error
    return became


def main(folder, seed, count):
    """Print what became of the mutants of each family, and the longest time one took."""
    folder, rng = Path(folder), np.random.default_rng(seed)
    for family, (kind, config) in FAMILIES.items():
        kind(config, rng=0).save_pretrained(folder / family)
    warnings.filterwarnings("ignore", message=".*(drawn anew|each is kept)")
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # the numbers are damaged too
    limit_memory()
    became, longest = Counter(), 0.0
    for number in range(count):
        family = list(FAMILIES)[number % len(FAMILIES)]
        path = folder / family / ("config.json" if number // len(FAMILIES) % 4 < 3 else "model.safetensors")
        whole = path.read_bytes()
        if number // len(FAMILIES) % 4 < 2:
            config, said = changed(json.loads(whole), rng)
            mutant = json.dumps(config).encode()
        else:
            said, mutant = path.name, damaged(whole, rng)
        path.write_bytes(mutant)
        began = time.process_time()
        try:
            end = outcome(HEADS[family], path.parent)
        except BaseException:
            print(f"mutant {number} of {path}: {said}", file=sys.stderr)
            raise
        longest = max(longest, time.process_time() - began)
        became[f"{family} {end}"] += 1
        path.write_bytes(whole)
    print(json.dumps({"became": became, "longest": longest}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
