"""Write down what the reference packages make of drawn predictions.

    python tests/golden/make_golden_metrics.py

needs an environment of its own, ``pip install 'transformers==4.57.*' scikit-learn sacrebleu rouge-score nltk``:
Transformers 5 has SQuAD's script no more. The questions stand in `metric_questions`, who answers them in
`metric_oracles`; ``metrics/answers.json.gz`` holds the answers, and the versions that gave them.
"""

import gzip
import json
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from metric_oracles import ORACLES
from metric_questions import METRICS, golden_questions, plain

FILE = Path(__file__).parent / "metrics" / "answers.json.gz"


def main():
    answers = {}
    for metric in METRICS:
        oracle = ORACLES[metric]
        answers[metric] = [plain(oracle(got, wanted, **said)) for got, wanted, said in golden_questions(metric)]
        print(metric)
    versions = {name: version(name) for name in ("scikit-learn", "transformers", "sacrebleu", "rouge-score", "nltk")}
    text = json.dumps({"versions": versions, "answers": answers}, separators=(",", ":"), allow_nan=False)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(gzip.compress(text.encode("ascii"), mtime=0))
    print(f"{FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
