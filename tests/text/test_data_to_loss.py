"""From rows to a loss: each task's features and collator with a small model of its own; padding changes nothing."""

import numpy as np
import pytest
from tokenizer_questions import FOLDERS

from numtx import models
from numtx.text import (
    AutoTokenizer,
    BatchOrder,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Dataset,
    collator_rng,
    encode_words,
    group_texts,
    row_lengths,
    span_features,
)

pytest.importorskip("tokenizers", reason="no tokenizers: pip install 'numtx[hub]'")

TEXTS = [
    "the assert statement",
    "debugging",
    "a convenient way to insert assertions, and so on",
    "programs into the way",
]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BART = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("attention_heads", "layers")}
BART |= {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64}


def opened(name):
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS / name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def bert(name, tokenizer, num_labels=2):
    names = {number: f"class {number}" for number in range(num_labels)}
    config = models.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, id2label=names, **SMALL)
    return getattr(models, f"BertFor{name}")(config, rng=0, dtype=np.float64)


def classification():
    tokenizer = opened("bert")
    rows = Dataset({"text": TEXTS, "label": ["good", "bad", "bad", "good"]}).class_encode_column("label")
    rows = rows.map(lambda row: tokenizer(row["text"]), remove_columns="text")
    return rows, DataCollatorWithPadding(tokenizer), bert("SequenceClassification", tokenizer)


def regression():
    tokenizer = opened("bert")
    rows = Dataset({"text": TEXTS, "label": [0.5, -1.25, 2.0, 0.1]})
    rows = rows.map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns="text")
    return rows, DataCollatorWithPadding(tokenizer), bert("SequenceClassification", tokenizer, num_labels=1)


def words():
    tokenizer = opened("bert")
    split = [text.split() for text in TEXTS]
    rows = Dataset({"tokens": split, "tags": [[len(word) % 3 for word in text] for text in split]})
    rows = rows.map(
        lambda batch: encode_words(batch, tokenizer, labels="tags"), batched=True, remove_columns=["tokens", "tags"]
    )
    return rows, DataCollatorForTokenClassification(tokenizer), bert("TokenClassification", tokenizer, num_labels=3)


def answers():
    tokenizer = opened("bert")
    asked = {"text": ["the"], "answer_start": [0]}
    rows = [{"question": "what", "context": f"the {text}", "answers": asked} for text in TEXTS]
    # The softmax is over all positions, padding too, as in Transformers: of other lengths the loss would be another.
    rows = span_features(rows, tokenizer, max_length=32, pad_to_max_length=True)
    return rows, DataCollatorWithPadding(tokenizer), bert("QuestionAnswering", tokenizer)


def masks():
    tokenizer = opened("bert")
    rows = Dataset({"text": TEXTS}).map(
        lambda row: tokenizer(row["text"], return_special_tokens_mask=True), remove_columns="text"
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5)
    return rows, lambda features: collator(features, rng=collator_rng(0, 1)), bert("MaskedLM", tokenizer)


def causal():
    tokenizer = opened("gpt2")
    config = models.GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2)
    rows = Dataset({"text": TEXTS}).map(lambda row: tokenizer(row["text"]), remove_columns="text")
    model = models.GPT2LMHeadModel(config, rng=0, dtype=np.float64)
    return rows, DataCollatorForLanguageModeling(tokenizer, mlm=False), model


def translation():
    tokenizer = opened("bart")
    config = models.BartConfig(vocab_size=len(tokenizer), **BART)
    model = models.BartForConditionalGeneration(config, rng=0, dtype=np.float64)
    rows = Dataset({"source": TEXTS, "target": TEXTS[::-1]}).map(
        lambda row: tokenizer(row["source"], text_target=row["target"]), remove_columns=["source", "target"]
    )
    return rows, DataCollatorForSeq2Seq(tokenizer, model), model


TASKS = [classification, regression, words, answers, masks, causal, translation]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_padding_changes_nothing(task):
    rows, collator, model = task()
    batch = collator(list(rows))
    loss, grads = model.loss_and_grads(batch)
    assert np.isfinite(loss)
    assert grads
    if task is masks:  # alone, a row would be masked elsewhere: its part of the batch is cut out
        width = batch["attention_mask"].sum(axis=1)
        alone = [{name: value[[k], :n] for name, value in batch.items()} for k, n in enumerate(width)]
    else:
        alone = [collator([row]) for row in rows]
    count = model.count_labels(batch)
    parts = [model.loss(one, num_items=count) for one in alone]
    assert abs(sum(parts) - loss) <= 1e-12 * abs(loss)


def test_an_epoch_by_length():
    rows, collator, model = classification()
    order = BatchOrder(len(rows), 2, seed=1, lengths=row_lengths(rows))
    batches = [collator([rows[row] for row in chosen]) for chosen in order.epoch(0)]
    assert [len(batch["labels"]) for batch in batches] == [2, 2]
    assert all(np.isfinite(model.loss(batch)) for batch in batches)


def test_blocks_need_no_padding():
    tokenizer = opened("gpt2")
    rows = Dataset({"text": TEXTS}).map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns="text")
    blocks = rows.map(lambda batch: group_texts(batch, 8), batched=True, remove_columns=rows.column_names)
    batch = DataCollatorForLanguageModeling(tokenizer, mlm=False)(list(blocks))
    assert batch["input_ids"].shape == (sum(row_lengths(rows)) // 8, 8)
    np.testing.assert_array_equal(batch["labels"], batch["input_ids"])
