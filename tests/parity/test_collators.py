"""Collators, batches by length, and spans against Transformers: the same features, the same batches."""

import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizer_questions import FOLDERS

from numtx import text as ours
from numtx.models import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")

NAMES = ("bert", "gpt2", "roberta", "bart")
ids = st.lists(st.integers(5, 40), min_size=1, max_size=9)
seeds = st.integers(1, 2**32 - 1)  # Transformers 4.57 takes a seed of 0 for none
settings = st.fixed_dictionaries(
    {},
    optional={
        "pad_to_multiple_of": st.sampled_from((None, 1, 4, 8)),
        "padding": st.sampled_from((True, "longest")),
    },
) | st.fixed_dictionaries(
    {"padding": st.just("max_length"), "max_length": st.integers(10, 14)},
    optional={"pad_to_multiple_of": st.sampled_from((None, 4))},
)


@pytest.fixture(scope="module")
def tokenizers():
    """Both libraries' tokenizers of each name, with a padding token, padding on both sides."""
    made = {}
    for name in NAMES:
        for side in ("right", "left"):
            pair = (
                ours.AutoTokenizer.from_pretrained(FOLDERS / name),
                transformers.AutoTokenizer.from_pretrained(str(FOLDERS / name)),
            )
            for tokenizer in pair:
                tokenizer.padding_side = side
                if tokenizer.pad_token is None:
                    tokenizer.pad_token = tokenizer.eos_token
            made[name, side] = pair
    return made


def same(got, expected):
    """The same keys, shapes, dtypes and numbers."""
    assert sorted(got) == sorted(expected)
    for name, value in expected.items():
        if value is None:
            assert got[name] is None
        else:
            value, array = np.asarray(value), got[name]
            assert isinstance(array, np.ndarray)
            assert (array.dtype, array.shape) == (value.dtype, value.shape), name
            np.testing.assert_array_equal(array, value, err_msg=name)


def features_of(rows, **more):
    """Features with masks, as a tokenizer returns them."""
    features = []
    for number, row in enumerate(rows):
        feature = {"input_ids": list(row), "attention_mask": [1] * len(row), "token_type_ids": [0] * len(row)}
        features.append(feature | {name: values[number] for name, values in more.items()})
    return features


named = pytest.mark.parametrize(("name", "side"), [(name, side) for name in NAMES for side in ("right", "left")])
a_few = st.lists(ids, min_size=1, max_size=5)


@named
@given(
    rows=a_few, chosen=settings, kind=st.sampled_from(("label", "label_ids", "labels", "scores", "none")), seed=seeds
)
def test_with_padding(tokenizers, name, side, rows, chosen, kind, seed):
    mine, theirs = tokenizers[name, side]
    rng = np.random.default_rng(seed)
    more = {
        "label": {"label": rng.integers(0, 5, len(rows)).tolist()},
        "labels": {"labels": rng.integers(0, 5, len(rows)).tolist()},
        "label_ids": {"label_ids": rng.integers(0, 2, (len(rows), 3)).tolist()},
        "scores": {"label": rng.normal(size=len(rows)).tolist()},
        "none": {},
    }[kind]
    features = features_of(rows, **more)
    expected = transformers.DataCollatorWithPadding(theirs, **chosen, return_tensors="np")(features)
    same(ours.DataCollatorWithPadding(mine, **chosen)(features), expected)


@named
@given(rows=a_few, chosen=settings, as_arrays=st.booleans(), labelled=st.booleans())
def test_token_classification(tokenizers, name, side, rows, chosen, as_arrays, labelled):
    mine, theirs = tokenizers[name, side]
    labels = [np.arange(len(row)) if as_arrays else list(range(len(row))) for row in rows]
    features = features_of(rows, **({"labels": labels} if labelled else {}))
    expected = transformers.DataCollatorForTokenClassification(theirs, **chosen, return_tensors="np")(features)
    same(ours.DataCollatorForTokenClassification(mine, **chosen)(features), expected)


@named
@given(rows=a_few, targets=st.lists(ids, min_size=5, max_size=5), chosen=settings, arrays=st.booleans())
def test_seq2seq(tokenizers, name, side, rows, targets, chosen, arrays):
    mine, theirs = tokenizers[name, side]
    targets = [np.array(target) if arrays else target for target in targets]
    features = features_of(rows, labels=targets)
    expected = transformers.DataCollatorForSeq2Seq(theirs, **chosen, return_tensors="np")(features)
    same(ours.DataCollatorForSeq2Seq(mine, **chosen)(features), expected)
    for without in (features_of(rows), features_of(rows, labels=[None] * len(rows))):
        expected = transformers.DataCollatorForSeq2Seq(theirs, **chosen, return_tensors="np")(without)
        same(ours.DataCollatorForSeq2Seq(mine, **chosen)(without), expected)


SIZES = {"vocab_size": 50, "d_model": 8}
BART = SIZES | {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
BART |= {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 16}
T5 = SIZES | {"d_ff": 8, "num_layers": 1, "num_heads": 2, "d_kv": 4, "decoder_start_token_id": 0}


@pytest.mark.parametrize(
    ("mine", "config", "theirs", "their_config", "sizes"),
    [
        (BartForConditionalGeneration, BartConfig, "BartForConditionalGeneration", "BartConfig", BART),
        (T5ForConditionalGeneration, T5Config, "T5ForConditionalGeneration", "T5Config", T5),
    ],
    ids=["bart", "t5"],
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_seq2seq_with_a_model(tokenizers, side, mine, config, theirs, their_config, sizes):
    my_tokenizer, their_tokenizer = tokenizers["bart", side]
    their_model = getattr(transformers, theirs)(getattr(transformers, their_config)(**sizes))
    my_model = mine(config.from_dict(their_model.config.to_dict()), rng=0)
    features = features_of([[5, 6, 7], [8, 9]], labels=[[10, 11], [12, 13, 14, 15]])
    expected = transformers.DataCollatorForSeq2Seq(their_tokenizer, model=their_model)(features)
    got = ours.DataCollatorForSeq2Seq(my_tokenizer, model=my_model)(features)
    same(got, {key: value.numpy() for key, value in expected.items()})
    # And the loss is that of labels alone, from which the model makes the same.
    alone = {key: value for key, value in got.items() if key not in ("decoder_input_ids", "token_type_ids")}
    both = alone | {"decoder_input_ids": got["decoder_input_ids"]}
    assert my_model.loss(alone) == my_model.loss(both)


@named
@given(rows=a_few, multiple=st.sampled_from((None, 4)), plain=st.booleans())
def test_causal_language_modelling(tokenizers, name, side, rows, multiple, plain):
    mine, theirs = tokenizers[name, side]
    rows = [[*row, mine.pad_token_id] for row in rows]  # a real end token, where it pads too, is lost
    features = rows if plain else features_of(rows)
    make = {"mlm": False, "pad_to_multiple_of": multiple}
    expected = transformers.DataCollatorForLanguageModeling(theirs, **make, return_tensors="np")(features)
    same(ours.DataCollatorForLanguageModeling(mine, **make)(features), expected)


SHARES = (
    (0.15, 0.8, 0.1),
    (0.5, 0.8, 0.1),
    (1.0, 0.5, 0.5),
    (0.5, 0.0, 1.0),
    (0.5, 1.0, 0.0),
    (0.5, 0.3, 0.0),
    (0, 0.8, 0.1),
)


@pytest.mark.parametrize("name", ["bert", "roberta", "bart"])
@pytest.mark.parametrize("side", ["right", "left"])
@given(rows=a_few, shares=st.sampled_from(SHARES), seed=seeds, given_mask=st.booleans(), plain=st.booleans())
def test_masked_language_modelling_draws_what_transformers_draws(
    tokenizers, name, side, rows, shares, seed, given_mask, plain
):
    mine, theirs = tokenizers[name, side]
    rows = [[mine.cls_token_id, *row, mine.sep_token_id] for row in rows]
    masks = [[int(token % 3 == 0) for token in row] for row in rows]
    features = rows if plain else features_of(rows, **({"special_tokens_mask": masks} if given_mask else {}))
    make = dict(zip(("mlm_probability", "mask_replace_prob", "random_replace_prob"), shares, strict=True))
    their_collator = transformers.DataCollatorForLanguageModeling(theirs, **make, return_tensors="np", seed=seed)
    my_collator = ours.DataCollatorForLanguageModeling(mine, **make, seed=seed)
    by_call = ours.DataCollatorForLanguageModeling(mine, **make)
    rng = np.random.default_rng(seed)
    for _ in range(2):  # the second batch goes on where the first ended
        expected = their_collator(features)
        same(my_collator(features), expected)
        same(by_call(features, rng=rng), expected)


def test_whole_words_are_masked_as_by_transformers(tokenizers):
    if not hasattr(transformers.DataCollatorForLanguageModeling, "_whole_word_mask"):
        pytest.skip("this Transformers has no whole_word_mask")
    for name in ("bert", "roberta"):
        mine, theirs = tokenizers[name, "right"]
        line = "Unbelievably complicated tokenization, don't debugging assertions"
        options = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "padding": "max_length"}
        encoded = mine([line, "assertions insert"], max_length=48, **options)
        features = [{key: values[row] for key, values in encoded.items()} for row in range(2)]
        make = {"whole_word_mask": True, "mask_replace_prob": 1.0, "random_replace_prob": 0.0, "mlm_probability": 0.4}
        for seed in range(1, 20):
            their_collator = transformers.DataCollatorForLanguageModeling(
                theirs, **make, return_tensors="np", seed=seed
            )
            copied = [{key: list(value) for key, value in row.items()} for row in features]
            same(ours.DataCollatorForLanguageModeling(mine, **make, seed=seed)(features), their_collator(copied))


number = st.integers(0, 9) | st.floats(-2, 2, width=32)


@given(
    rows=st.integers(1, 4),
    kind=st.sampled_from(("label", "label_ids", "float label", "float label_ids", "array", "none")),
    extra=st.booleans(),
)
def test_default_collator(rows, kind, extra):
    rng = np.random.default_rng(rows)
    label = {
        "label": lambda: {"label": int(rng.integers(9))},
        "float label": lambda: {"label": float(rng.normal())},
        "label_ids": lambda: {"label_ids": rng.integers(0, 9, 3).tolist()},
        "float label_ids": lambda: {"label_ids": rng.normal(size=3).tolist()},
        "array": lambda: {"label_ids": rng.integers(0, 9, 3)},
        "none": lambda: {"label": None},
    }[kind]
    features = [{"input_ids": [1, 2, number], "text": "left out", **label()} for number in range(rows)]
    if extra:
        features = [{**row, "start_positions": 3, "values": np.ones(2), "nothing": None} for row in features]
    expected = transformers.default_data_collator(features, return_tensors="np")
    same(ours.default_data_collator(features), expected)
    same(ours.DefaultDataCollator()(features), expected)


class TheirShuffle:
    """Draws the order that PyTorch draws."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def permutation(self, n):
        return torch.randperm(n, generator=self.generator).tolist()


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=300),
    batch=st.integers(1, 9),
    mult=st.none() | st.integers(1, 9),
    seed=seeds,
)
@example(lengths=[1 + (7 * row) % 31 for row in range(500)], batch=1, mult=None, seed=1)  # no stretch is over 50
def test_batches_by_length(lengths, batch, mult, seed):
    from transformers.trainer_pt_utils import get_length_grouped_indices

    expected = get_length_grouped_indices(lengths, batch, mult, generator=torch.Generator().manual_seed(seed))
    assert ours.length_grouped_indices(lengths, batch, mult, rng=TheirShuffle(seed)) == expected


def test_a_tokenizer_of_transformers_serves_too(tokenizers):
    _, theirs = tokenizers["bert", "right"]
    features = features_of([[5, 6], [7]], label=[0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(
            ours.DataCollatorWithPadding(theirs)(features),
            transformers.DataCollatorWithPadding(theirs, return_tensors="np")(features),
        )
