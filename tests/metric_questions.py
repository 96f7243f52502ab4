"""Predictions and references to be scored, drawn from a seed: the same on every machine and in every version."""

import random

_WORDS = (
    "the The a an cat cats dog ran run running happily happy house houses party commands ensure ensures ensured of to"
    " in on and is was guide action U.S. $5.00 3,141 don't can't (quiet) — … naïve Größe ÉCOLE école 日本 語 東京タワー"
    " 🙂 שלום мир 10% a.m. co-operate e\u0301tude ½ ﬁn \u00a0 \u200b"
)
WORDS = _WORDS.split(" ")
CLASSES = ((0, 1), (0, 1, 2), (-1, 3, 7, 10), ("no", "yes"), ("b", "a", "ü"), (1,), (0, 1, 2, 3, 4, 5, 6, 7))
CLASSIFICATION = ("accuracy", "precision", "recall", "f1", "matthews_correlation")
TRANSLATION = ("bleu", "sacrebleu", "chrf")
METRICS = (*CLASSIFICATION, "exact_match", "squad", "squad_v2", *TRANSLATION, "rouge", "meteor")
EXTRA = (*TRANSLATION, "rouge", "meteor")  # what needs the packages of the extra `metrics`


def questions(metric, number, seed=0):
    """Yield `number` questions of a metric: predictions, references and settings."""
    rng = random.Random(f"{metric} {seed}")
    draw = DRAWS[metric]
    for _ in range(number):
        yield draw(rng)


def golden_questions(metric, number=200):
    """Yield the questions whose answers are kept, which no version of a package may answer in another way."""
    # nltk's rules for words change: 3.10 takes other quotes off than 3.9.
    more = {"tokenizer": str.split} if metric == "meteor" else {}
    for predictions, references, settings in questions(metric, number):
        yield predictions, references, settings | more


def text(rng, longest=12):
    """A text: words, sometimes lines, sometimes nothing."""
    kind = rng.random()
    if kind < 0.06:
        return rng.choice(("", " ", "\n", ".", "the"))
    words = [rng.choice(WORDS) for _ in range(rng.randint(1, longest))]
    joints = [rng.choice((" ", " ", " ", " ", " ", "  ", ", ", ". ", "\n")) for _ in words]
    return "".join(word + joint for word, joint in zip(words, joints, strict=True)).rstrip(" ") + rng.choice(("", "."))


def near(rng, other):
    """A text like another: some words lost, others put in, some changed places."""
    words = other.split(" ")
    for _ in range(rng.randint(0, 4)):
        k = rng.randrange(len(words) + 1)
        step = rng.random()
        if step < 0.35:
            words[k : k + 1] = []
        elif step < 0.7:
            words[k:k] = [rng.choice(WORDS)]
        elif words:
            rng.shuffle(words)
    return " ".join(words)


def texts(rng, least_references=1):
    """Texts, and one or several references of each."""
    several = rng.random()
    predictions, references = [], []
    for _ in range(rng.randint(1, 5)):
        own = [text(rng)]
        number = 1 if several < 0.3 else 3 if several < 0.6 else rng.randint(least_references, 4)
        while len(own) < number:
            own.append(near(rng, own[0]) if rng.random() < 0.6 else text(rng))
        predictions.append("" if rng.random() < 0.05 else near(rng, rng.choice(own)))
        references.append(own[0] if several < 0.15 else own)
    return predictions, references


def classes(rng):
    """Classes that are right more often than not, and weights for some."""
    names = rng.choice(CLASSES)
    true = [rng.choice(names) for _ in range(rng.randint(1, 20))]
    predictions = [one if rng.random() < 0.6 else rng.choice(names) for one in true]
    weights = {"sample_weight": [round(rng.uniform(0.01, 2), 3) for _ in true]} if rng.random() < 0.25 else {}
    return predictions, true, weights, names


def of_accuracy(rng):
    predictions, true, weights, _ = classes(rng)
    return predictions, true, weights | ({"normalize": False} if rng.random() < 0.2 else {})


def of_classes(rng):
    predictions, true, settings, names = classes(rng)
    there = {*predictions, *true}
    averages = ("micro", "macro", "weighted", None)
    average = rng.choice(("binary", *averages) if len(there) <= 2 else averages)
    settings |= {"average": average, "zero_division": rng.choice((0, 1, float("nan")))}
    if average == "binary":
        settings["pos_label"] = rng.choice(sorted(there) if len(there) == 2 else [*there])
    elif rng.random() < 0.4:
        extra = ("unseen",) if isinstance(names[0], str) else (99,)
        settings["labels"] = rng.sample((*names, *extra), rng.randint(1, len(names) + 1))
    return predictions, true, settings


def of_matthews(rng):
    return classes(rng)[:3]


def of_exact_match(rng):
    references = [text(rng, 3) for _ in range(rng.randint(1, 6))]
    predictions = [
        one if rng.random() < 0.4 else rng.choice((near(rng, one), one.upper(), one + "!")) for one in references
    ]
    names = ("ignore_case", "ignore_punctuation", "ignore_numbers")
    settings = {name: True for name in names if rng.random() < 0.5}
    if rng.random() < 0.4:
        settings["regexes_to_ignore"] = rng.sample(("the ", "[aeiou]", r"\s+", "cat", "^.*$"), rng.randint(1, 2))
    return predictions, references, settings


def of_squad(rng, silent=0.0):
    references, predictions = [], []
    for k in range(rng.randint(1, 8)):
        golds = [] if rng.random() < silent else [text(rng, 4) for _ in range(rng.randint(1, 3))]
        said = near(rng, rng.choice(golds)) if golds and rng.random() < 0.8 else rng.choice(("", text(rng, 3)))
        references.append({"id": f"q{k}", "answers": {"text": golds, "answer_start": [0] * len(golds)}})
        predictions.append({"id": f"q{k}", "prediction_text": said})
    rng.shuffle(predictions)
    return predictions, references, {}


def of_squad_v2(rng):
    predictions, references, settings = of_squad(rng, silent=0.4)
    for one in predictions:
        one["no_answer_probability"] = rng.choice((0.0, 1.0, 0.5, round(rng.random(), 3)))
    return (
        predictions,
        references,
        {"no_answer_threshold": rng.choice((0.5, 0.9, 0.25))} if rng.random() < 0.5 else settings,
    )


def of_bleu(rng):
    settings = {"smooth_method": rng.choice(("exp", "exp", "floor", "add-k", "none"))}
    if rng.random() < 0.3:
        settings["lowercase"] = True
    if rng.random() < 0.3:
        settings["tokenize"] = rng.choice(("13a", "intl", "char", "zh", "none"))
    if rng.random() < 0.3:
        settings["use_effective_order"] = True
    return *texts(rng), settings


def of_chrf(rng):
    settings = {"word_order": rng.choice((0, 0, 2)), "char_order": rng.choice((6, 6, 3)), "beta": rng.choice((2, 1))}
    return *texts(rng), settings | {
        name: True for name in ("lowercase", "whitespace", "eps_smoothing") if rng.random() < 0.2
    }


def of_rouge(rng):
    return *texts(rng), {"use_stemmer": rng.random() < 0.5, "use_aggregator": rng.random() < 0.8}


def of_meteor(rng):
    other = {"alpha": rng.choice((0.5, 0.8)), "beta": rng.choice((1, 2.5)), "gamma": rng.choice((0.2, 0.9))}
    return *texts(rng), other if rng.random() < 0.3 else {}


DRAWS = {
    "accuracy": of_accuracy,
    "precision": of_classes,
    "recall": of_classes,
    "f1": of_classes,
    "matthews_correlation": of_matthews,
    "exact_match": of_exact_match,
    "squad": of_squad,
    "squad_v2": of_squad_v2,
    "bleu": of_bleu,
    "sacrebleu": of_bleu,
    "chrf": of_chrf,
    "rouge": of_rouge,
    "meteor": of_meteor,
}


def plain(value):
    """A result as JSON has it, NaN as None."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and value != value else value


def differences(ours, theirs, where="", rtol=1e-12):
    """Yield where two plain results differ by more than rounding; NaN differs from a number."""
    if isinstance(theirs, dict):
        if not isinstance(ours, dict) or list(ours) != list(theirs):
            yield f"{where}: {list(ours) if isinstance(ours, dict) else ours} beside {list(theirs)}"
            return
        for key, one in theirs.items():
            yield from differences(ours[key], one, f"{where}.{key}", rtol)
    elif isinstance(theirs, list):
        if not isinstance(ours, list) or len(ours) != len(theirs):
            yield f"{where}: {ours} beside {theirs}"
            return
        for k, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{where}[{k}]", rtol)
    elif isinstance(theirs, (int, float)) and isinstance(ours, (int, float)):
        if not abs(ours - theirs) <= rtol * max(1.0, abs(theirs)):
            yield f"{where}: {ours!r} beside {theirs!r}"
    elif ours != theirs:
        yield f"{where}: {ours!r} beside {theirs!r}"
