"""What the reference packages answer to the questions of `metric_questions`, under `evaluate`'s names."""

import string
import warnings
from types import SimpleNamespace

import numpy as np

PACKAGES = {
    **dict.fromkeys(("accuracy", "precision", "recall", "f1", "matthews_correlation"), "sklearn"),
    **dict.fromkeys(("squad", "squad_v2"), "transformers.data.metrics.squad_metrics"),
    **dict.fromkeys(("bleu", "sacrebleu", "chrf"), "sacrebleu"),
    "rouge": "rouge_score",
    "meteor": "nltk",
}


def accuracy(predictions, references, **settings):
    from sklearn.metrics import accuracy_score

    return {"accuracy": float(accuracy_score(references, predictions, **settings))}


def _of_classes(name):
    def answer(predictions, references, **settings):
        import sklearn.metrics

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            score = getattr(sklearn.metrics, f"{name}_score")(references, predictions, **settings)
        return {name: float(np.ravel(score)[0]) if np.size(score) == 1 else score}

    return answer


def matthews_correlation(predictions, references, **settings):
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single class
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions, **settings))}


def exact_match(predictions, references, regexes_to_ignore=(), **ignored):
    """By NumPy's functions over arrays of texts, where numtx goes text by text."""
    import re

    both = [np.array(one, dtype=object) for one in (predictions, references)]
    rest = []
    for one in both:
        for pattern in regexes_to_ignore:
            one = np.array([re.sub(pattern, "", each) for each in one], dtype=object)
        one = one.astype("U")
        if ignored.get("ignore_case"):
            one = np.char.lower(one)
        for name, taken in (("ignore_punctuation", string.punctuation), ("ignore_numbers", string.digits)):
            if ignored.get(name):
                one = np.char.translate(one, str.maketrans("", "", taken))
        rest.append(one)
    equal = (rest[0] == rest[1]) & ((rest[0] != "") | (both[0] == both[1]))
    return {"exact_match": float(np.mean(equal.astype(float)))}


def squad(predictions, references):
    """By the functions that Transformers has of version 2's script; version 1 gives 0 where no word is in common."""
    from transformers.data.metrics.squad_metrics import compute_exact, compute_f1, get_tokens

    said = {one["id"]: one["prediction_text"] for one in predictions}
    exact, f1 = [], []
    for one in references:
        answer, golds = said[one["id"]], one["answers"]["text"]
        exact.append(max(compute_exact(gold, answer) for gold in golds))
        f1.append(max(compute_f1(gold, answer) if get_tokens(answer) else 0 for gold in golds))
    return {"exact_match": 100.0 * sum(exact) / len(exact), "f1": 100.0 * sum(f1) / len(f1)}


def squad_v2(predictions, references, no_answer_threshold=1.0):
    from transformers.data.metrics.squad_metrics import squad_evaluate

    examples = [
        SimpleNamespace(qas_id=one["id"], answers=[{"text": text} for text in one["answers"]["text"]])
        for one in references
    ]
    said = {one["id"]: one["prediction_text"] for one in predictions}
    unsure = {one["id"]: one["no_answer_probability"] for one in predictions}
    return dict(squad_evaluate(examples, said, unsure, no_answer_threshold))


def _transposed(references):
    several = [[one] if isinstance(one, str) else one for one in references]
    return [[own[k] if k < len(own) else None for own in several] for k in range(max(map(len, several)))]


def sacrebleu(predictions, references, use_effective_order=False, **settings):
    from sacrebleu.metrics import BLEU

    scorer = BLEU(effective_order=use_effective_order, **settings)
    one = scorer.corpus_score(predictions, _transposed(references))
    names = ("score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len")
    return {name: getattr(one, name) for name in names} | {"signature": str(scorer.get_signature())}


def bleu(predictions, references, **settings):
    one = sacrebleu(predictions, references, **settings)
    return {
        "bleu": one["score"] / 100,
        "precisions": [precision / 100 for precision in one["precisions"]],
        "brevity_penalty": one["bp"],
        "length_ratio": one["sys_len"] / one["ref_len"] if one["ref_len"] else 0.0,
        "translation_length": one["sys_len"],
        "reference_length": one["ref_len"],
        "signature": one["signature"],
    }


def chrf(predictions, references, **settings):
    from sacrebleu.metrics import CHRF

    scorer = CHRF(**settings)
    score = scorer.corpus_score(predictions, _transposed(references)).score
    asked = {name: settings[name] for name in ("char_order", "word_order", "beta")}
    return {"score": score, **asked, "signature": str(scorer.get_signature())}


def rouge(predictions, references, use_stemmer=False, use_aggregator=True):
    from rouge_score.rouge_scorer import RougeScorer

    types = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(types, use_stemmer=use_stemmer)
    each = {one: [] for one in types}
    for text, own in zip(predictions, references, strict=True):
        scores = [scorer.score(one, text) for one in ([own] if isinstance(own, str) else own)]
        for one in types:
            each[one].append(max(score[one].fmeasure for score in scores))
    return {one: sum(scores) / len(scores) if use_aggregator else scores for one, scores in each.items()}


class Silent:
    """A WordNet that knows no word."""

    @staticmethod
    def synsets(word):
        return []


def meteor(predictions, references, wordnet=Silent, tokenizer=None, **settings):
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import single_meteor_score

    words = tokenizer or NLTKWordTokenizer().tokenize
    scores = [
        max(
            single_meteor_score(words(one), words(text), wordnet=wordnet, **settings)
            for one in ([own] if isinstance(own, str) else own)
        )
        for text, own in zip(predictions, references, strict=True)
    ]
    return {"meteor": sum(scores) / len(scores)}


ORACLES = {
    "accuracy": accuracy,
    "precision": _of_classes("precision"),
    "recall": _of_classes("recall"),
    "f1": _of_classes("f1"),
    "matthews_correlation": matthews_correlation,
    "exact_match": exact_match,
    "squad": squad,
    "squad_v2": squad_v2,
    "sacrebleu": sacrebleu,
    "bleu": bleu,
    "chrf": chrf,
    "rouge": rouge,
    "meteor": meteor,
}
