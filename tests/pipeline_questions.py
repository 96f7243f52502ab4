"""What numtx's pipelines and Transformers' are both asked: small models made of seeds, texts, settings.

folders = make_folders(path)                  # one a model, which both open
for task, model, settings, inputs, options in questions(): pipeline(task, folders[model], **settings)(inputs, **options)
"""

import shutil
import warnings
from pathlib import Path

import numpy as np

from numtx import models
from numtx.checkpoints import read_json, write_json

TOKENIZERS = Path(__file__).parent / "golden" / "tokenizers"
TASKS = (
    "text-classification",
    "zero-shot-classification",
    "token-classification",
    "fill-mask",
    "feature-extraction",
)
ENTITIES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC", 5: "MISC"}
INFERENCE = {0: "contradiction", 1: "neutral", 2: "entailment"}
MOODS = {0: "sad", 1: "so-so", 2: "glad"}

_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_BERT |= {"max_position_embeddings": 64, "pad_token_id": 0}
_ROBERTA = _BERT | {"max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1}
_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 512}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "eos_token_id": 5, "bos_token_id": 5}
_BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 256}
_BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
_BART |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}

# A model -> its class, its tokenizer, its settings.
MODELS = {
    "moods": ("BertForSequenceClassification", "bert", _BERT | {"id2label": MOODS}),
    "number": ("RobertaForSequenceClassification", "roberta", _ROBERTA | {"id2label": {0: "stars"}}),
    "regression": (
        "BertForSequenceClassification",
        "bert",
        _BERT | {"id2label": {0: "a", 1: "b"}, "problem_type": "regression"},
    ),
    "several": (
        "DistilBertForSequenceClassification",
        "distilbert_cased",
        _DISTILBERT | {"id2label": MOODS, "problem_type": "multi_label_classification"},
    ),
    "last": ("GPT2ForSequenceClassification", "gpt2", _GPT2 | {"id2label": MOODS}),
    "inference": (
        "BertForSequenceClassification",
        "bert",
        _BERT | {"id2label": INFERENCE, "max_position_embeddings": 128},
    ),
    "inference_bart": ("BartForSequenceClassification", "bart", _BART | {"id2label": INFERENCE}),
    "entities": ("BertForTokenClassification", "bert", _BERT | {"id2label": ENTITIES}),
    "entities_bytes": ("RobertaForTokenClassification", "roberta", _ROBERTA | {"id2label": ENTITIES}),
    "masked": ("BertForMaskedLM", "bert", _BERT),
    "masked_bytes": ("RobertaForMaskedLM", "roberta", _ROBERTA),
    "features": (
        "BertModel",
        "bert",
        _BERT | {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12},
    ),
    "features_bytes": ("GPT2Model", "gpt2", _GPT2),
}
# Seeds with which every class is the answer somewhere; other models take the number of their place.
SEEDS = {"moods": 9, "regression": 10, "several": 5, "last": 2, "entities": 0}
WORD_PIECE = ("bert", "distilbert_cased")
VOCABULARY = 512  # as large as the largest tokenizer's, rounded up

PROSE = (
    "The assert statement is a convenient way to insert debugging assertions into programs of Alice and Bob "
    "Paris Berlin don't can't co-operate naïve café 3.14 1,000 e.g. x=y (see) ## Zürich Ünïcode straße"
)
WORDS = PROSE.split()
ODD = (
    "",
    " ",
    "Hello, world!",
    "  two  spaces \n new line\t and tab ",
    "emoji 😀👩\u200d👧 🏳️\u200d🌈 end",
    "שלום עולם, what is this?",
    "مرحبا بالعالم",
    "中文字符 日本語 한국어 mixed",
    "a\x00b\x1b\u200b\ufeff z\u00a0y",
    "## #version # # ###",
    "co-operate's don't ... ?!",
    "İstanbul ﬁ ½ ß e\u0301",
)


def make_folders(path: Path) -> dict[str, Path]:
    """Write every model, drawn of a seed of its own, beside its tokenizer, and return the folders by name."""
    folders = {}
    for seed, (name, (kind, tokenizer, settings)) in enumerate(MODELS.items()):
        made = getattr(models, kind)
        config = made.config_class(vocab_size=VOCABULARY, **settings)
        model = made(config, rng=np.random.default_rng(seed))
        draw(model, SEEDS.get(name, seed))
        folders[name] = path / name
        model.save_pretrained(folders[name])
        for file in (TOKENIZERS / tokenizer).iterdir():
            shutil.copy(file, folders[name])
        # Without this entry, Transformers 4 cleans up what BERT's vocab.txt gives, and Transformers 5 does not.
        config = read_json(folders[name] / "tokenizer_config.json")
        write_json(
            folders[name] / "tokenizer_config.json", config | {"clean_up_tokenization_spaces": tokenizer in WORD_PIECE}
        )
    return folders


def draw(model, seed: int) -> None:
    """Draw weights that make a difference: norms about one, small biases, and tokens that are far from each other."""
    rng = np.random.default_rng([7, seed])
    for name, array in model.named_parameters():
        norm = array.ndim == 1 and name.endswith("weight")
        size = 0.3 if norm else 0.05 if array.ndim == 1 else 1.0 if len(array) == VOCABULARY else 0.3
        array[...] = norm + size * rng.standard_normal(array.shape)
        if name == "head.norm.weight":  # behind it stands the table again
            array *= 0.4


def texts(seed: int, number: int, longest: int = 30) -> list[str]:
    """Return the odd texts, and as many drawn ones as make up the number."""
    rng = np.random.default_rng([11, seed])
    drawn = [" ".join(rng.choice(WORDS, size=rng.integers(1, longest))) for _ in range(number - len(ODD))]
    return [*ODD, *drawn]


def long_texts(seed: int, number: int = 3) -> list[str]:
    """Return texts that no model here takes whole."""
    rng = np.random.default_rng([13, seed])
    return [" ".join(rng.choice(WORDS, size=400)) for _ in range(number)]


def questions(number: int = 54, tasks=TASKS):
    """Yield (task, model, settings of the pipeline, inputs, settings of the call)."""
    asked = {
        "text-classification": text_classification,
        "zero-shot-classification": zero_shot,
        "token-classification": token_classification,
        "fill-mask": fill_mask,
        "feature-extraction": feature_extraction,
    }
    for task in tasks:
        for model, settings, inputs, options in asked[task](number):
            yield task, model, settings, inputs, options


def text_classification(number):
    cut = {"truncation": True, "max_length": 64}
    every = texts(0, number)
    for model in ("moods", "number", "regression", "several"):
        yield model, {}, [*every, *long_texts(0)], cut
    yield "last", {}, [text for text in every if text], {}
    pairs = [{"text": a, "text_pair": b} for a, b in zip(every[2:9], every[-7:], strict=True)]
    for options in ({}, {"top_k": None}, {"top_k": 2}, {"top_k": 1}, {"function_to_apply": "sigmoid"}):
        for inputs in (every[2], every[3:7], pairs[0], pairs):
            yield "moods", {}, inputs, {**options, **cut}
            yield "moods", options, inputs, cut
    for function in ("none", "softmax", "SIGMOID"):
        yield "several", {}, every[:5], {"function_to_apply": function, "top_k": None, **cut}
    yield "moods", {}, every[2:5], {"return_all_scores": True, **cut}
    yield "moods", {"return_all_scores": False}, every[2:5], cut
    yield "moods", {}, [[[every[2], every[3]]]], cut
    yield "moods", {"batch_size": 3}, every, cut


def zero_shot(number):
    every = [text for text in texts(1, number + 1) if text]
    labels = ["politics", "cooking", "Zürich", "😀"]
    yield "inference", {}, every, {"candidate_labels": labels}
    yield "inference", {}, long_texts(1), {"candidate_labels": labels}
    yield "inference_bart", {}, every[:20], {"candidate_labels": labels}
    yield "inference_bart", {"candidate_labels": labels}, every[2], {"multi_label": True}
    for options in ({"multi_label": True}, {"hypothesis_template": "It is about {}."}):
        yield "inference", {}, every[:12], {"candidate_labels": "one, two,three , ", **options}
        yield "inference", options, every[3], {"candidate_labels": labels[:2]}
    yield "inference", {}, every[:5], {"candidate_labels": "alone"}
    yield "inference", {}, every[:5], {"candidate_labels": ["x " * 70, "y"]}  # no room for the text beside it
    yield "inference", {}, every[:5], {"candidate_labels": ["alone"], "multi_label": True}


def token_classification(number):
    every = texts(2, number)
    long = long_texts(2)
    for strategy in ("none", "simple", "first", "average", "max"):
        yield "entities", {"aggregation_strategy": strategy}, every if strategy == "simple" else every[:16], {}
        yield "entities", {}, every[3], {"aggregation_strategy": strategy}
        yield "entities_bytes", {}, every[:12], {"aggregation_strategy": strategy}
        words = {"aggregation_strategy": strategy, "is_split_into_words": True}
        yield "entities", {}, [every[4].split(), every[-1].split()], words
    for strategy, stride in (("simple", 10), ("first", 0), ("average", 10), ("max", 30)):
        yield "entities", {"aggregation_strategy": strategy, "stride": stride}, [*every[2:5], long[0]], {}
    yield "entities_bytes", {"aggregation_strategy": "simple", "stride": 30}, [every[2], long[1]], {}
    yield "entities", {}, every[:14], {"ignore_labels": []}
    yield "entities", {}, every[:14], {"ignore_labels": ["O", "PER", "MISC"], "aggregation_strategy": "simple"}
    yield "entities", {}, every[-1].split(), {"is_split_into_words": True, "delimiter": "-"}
    yield "entities", {}, long, {}
    yield "entities", {"batch_size": 4, "aggregation_strategy": "simple", "stride": 8}, [*every[:12], long[2]], {}


def fill_mask(number):
    for model, mask in (("masked", "[MASK]"), ("masked_bytes", "<mask>")):
        rng = np.random.default_rng(17)
        every = []
        for text in texts(3, number):
            at = int(rng.integers(0, min(len(text), 40) + 1))
            every.append(f"{text[:at]} {mask}{text[at:]}")
        several = {} if model == "masked" else {"top_k": 2}
        yield model, several, every, {"tokenizer_kwargs": {"truncation": True}}
        yield model, {}, every[2], {"top_k": 3}
        yield model, {"top_k": 2}, every[2:3], {}
        yield model, {}, [f"{mask} and {mask} then", f"{mask}"], {}
        yield model, {}, f"{mask}{mask} {mask}", {"top_k": 2}
        yield model, {}, every[:6], {"targets": ["the", "a", "debugging", "😀", "the"]}
        yield model, {}, every[2], {"targets": "is"}
        yield model, {}, f"{mask} " + long_texts(3)[0], {"tokenizer_kwargs": {"truncation": True}}


def feature_extraction(number):
    cut = {"truncation": True, "max_length": 64}
    every = texts(4, number, longest=8)
    yield "features", {}, [*every, long_texts(4)[0]], {"tokenize_kwargs": cut}
    yield "features", {}, every[2], {"tokenize_kwargs": {"max_length": 4}, "truncation": True}
    yield "features", {}, every[3], {"return_tensors": True}
    yield "features_bytes", {}, [text for text in every[2:5] if text], {}
    yield "moods", {}, every[2], {}  # only the body of what has a head is opened


def answer(made, inputs, options):
    """Return a pipeline's answer as JSON holds it, its arrays and numbers as lists and floats."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plain(made(inputs, **options))


def same(ours, theirs) -> bool:
    """Return whether two answers are equal but for rounding."""
    return not list(differences(plain(ours), plain(theirs)))


def plain(value):
    """Return an answer in lists, dicts, texts and numbers of Python, floats to seven digits."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):  # an array, or a number of NumPy's
        return plain(value.tolist())
    return float(f"{value:.7g}") if isinstance(value, float) else value


def differences(ours, theirs, where="", within=1e-5):
    """Yield where two answers differ: anything but floats that are within 1e-5 (relative where they are above one)."""
    if isinstance(ours, float) and isinstance(theirs, float):
        if not abs(ours - theirs) <= within * max(1.0, abs(theirs)):
            yield f"{where}: {ours} is not {theirs}"
    elif type(ours) is not type(theirs):
        yield f"{where}: {ours!r} is not {theirs!r}"
    elif isinstance(ours, dict):
        if list(ours) != list(theirs):
            yield f"{where}: {list(ours)} is not {list(theirs)}"
        for name in set(ours) & set(theirs):
            yield from differences(ours[name], theirs[name], f"{where}.{name}", within)
    elif isinstance(ours, list):
        if len(ours) != len(theirs):
            yield f"{where}: {len(ours)} entries are not {len(theirs)}"
        for i, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            yield from differences(one, other, f"{where}[{i}]", within)
    elif ours != theirs:
        yield f"{where}: {ours!r} is not {theirs!r}"
