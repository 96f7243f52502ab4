"""T5 beside Transformers': outputs, loss, every gradient, dropout, decoding, files in both directions."""

import json

import numpy as np
import pytest

from numtx import models
from numtx.checkpoints import load_arrays, save_arrays

transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
import torch  # noqa: E402
from family_parity import (  # noqa: E402 - it needs PyTorch
    PADDINGS,
    check_family,
    compare_dropout,
    compare_gradients,
    compare_outputs,
    draw_batch,
    draw_labels,
    in_double,
    random_model,
    run_theirs,
    with_labels,
)
from their_version import CACHE, OLD  # noqa: E402

SMALL = {
    "vocab_size": 19, "d_model": 10, "d_kv": 3, "d_ff": 7, "num_layers": 2, "num_heads": 2,
    "decoder_start_token_id": 0, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6,
}  # fmt: skip
VARIANTS = {
    "tied": {},
    "untied": {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
    "deeper decoder": {"num_layers": 1, "num_decoder_layers": 3, "feed_forward_proj": "gated-silu"},
    "wide heads": {"d_kv": 8, "num_heads": 3, "feed_forward_proj": "gelu", "layer_norm_epsilon": 1e-3},
    "gelu_new": {"feed_forward_proj": "gelu_new", "num_heads": 1, "relative_attention_max_distance": 5},
    "untied, relu": {"tie_word_embeddings": False, "num_layers": 1, "pad_token_id": 3, "decoder_start_token_id": 3},
}
HEADS = (
    "Model", "ForConditionalGeneration", "EncoderModel", "ForSequenceClassification", "ForTokenClassification",
    "ForQuestionAnswering",
)  # fmt: skip
ENCODERS = ("EncoderModel", "ForTokenClassification")
OF_TEXTS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
CLASSES, END = 3, 1
each_head = pytest.mark.parametrize("head", HEADS)
TARGETS = {  # masks of (3, 5) for the decoder
    "none": None,
    "right": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
    "left": np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]),
    "both": np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]]),
}


def pair(head, std=0.3, seed=0, **settings):
    """Theirs at random, and our class. An untied head of Transformers 5 is one that differs from the table."""
    classes = {"num_labels": CLASSES} if head in OF_TEXTS and head != "ForQuestionAnswering" else {}
    config = transformers.T5Config(**SMALL | classes | settings)
    theirs = random_model(getattr(transformers, f"T5{head}"), config, std=std, seed=seed)
    if head == "ForConditionalGeneration" and not settings.get("tie_word_embeddings", True) and not OLD:
        with torch.no_grad():
            table = torch.from_numpy(std * np.random.default_rng(9).standard_normal(theirs.shared.weight.shape))
            theirs.lm_head.weight = torch.nn.Parameter(table.float().double())
    return theirs, getattr(models, f"T5{head}")


def batch_for(head, padding="right", target="right", **settings):
    """A batch with what the decoder reads, or with labels that say it."""
    batch = draw_batch(SMALL["vocab_size"], padding=padding)
    if head == "EncoderModel":
        return batch
    if head in OF_TEXTS:
        if head == "ForSequenceClassification":
            batch["input_ids"][batch["input_ids"] == END] = 2
            for row, at in enumerate(([2, 3], [4, 6], [1, 2])):  # two ends in each row, of which the last one counts
                batch["input_ids"][row, at] = END
        return with_labels(head, batch, SMALL["vocab_size"], CLASSES) | settings
    asked = draw_batch(SMALL["vocab_size"], shape=(3, 5), seed=4)
    if TARGETS[target] is not None:
        batch["decoder_attention_mask"] = TARGETS[target]
    if head == "Model":
        return batch | {"decoder_input_ids": asked["input_ids"]} | settings
    labels = draw_labels(asked, SMALL["vocab_size"])
    if TARGETS[target] is not None:
        labels[TARGETS[target] == 0] = -100
    return batch | {"labels": labels} | settings


def opened(head, folder, std=0.3, seed=0, **settings):
    """Theirs, and ours opened from their files."""
    theirs, kind = pair(head, std, seed, **settings)
    theirs.save_pretrained(folder)
    return theirs, kind.from_pretrained(folder, dtype=np.float64)


@each_head
@pytest.mark.parametrize("variant", VARIANTS)
def test_everything(variant, head, tmp_path):
    theirs, kind = pair(head, **VARIANTS[variant])
    ours = check_family(kind, theirs, batch_for(head), tmp_path)
    if head == "ForConditionalGeneration":
        assert ours.config.tie_word_embeddings == VARIANTS[variant].get("tie_word_embeddings", True)
        assert ours.config.scale_decoder_outputs == ours.config.tie_word_embeddings


@pytest.mark.parametrize(
    ("head", "target"),
    [*((head, target) for head in HEADS[:2] for target in TARGETS), *((head, "none") for head in HEADS[2:])],
)
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding(padding, target, head, tmp_path):
    theirs, ours = opened(head, tmp_path)
    batch = batch_for(head, padding, target)
    compare_outputs(ours, theirs, batch)
    compare_gradients(ours, theirs, batch)


@pytest.mark.parametrize(
    ("number", "labels"), [(1, [0.5, -1.0, 2.0]), (4, np.eye(4)[:3])], ids=["regression", "several"]
)
def test_labels_of_a_sequence(number, labels, tmp_path):
    theirs, ours = opened("ForSequenceClassification", tmp_path, num_labels=number)
    batch = batch_for("ForSequenceClassification", "left", labels=np.array(labels, np.float64))
    compare_outputs(ours, theirs, batch)
    compare_gradients(ours, theirs, batch)


def test_places_in_a_target_of_another_length(tmp_path):
    """Those behind its end are ignored, wherever the source ends."""
    theirs, ours = opened("ForQuestionAnswering", tmp_path)
    labels = {"start_positions": np.array([1, 5, 3]), "end_positions": np.array([4, 6, 2])}
    batch = batch_for("ForQuestionAnswering") | labels | {"decoder_input_ids": np.arange(15).reshape(3, 5)}
    compare_outputs(ours, theirs, batch)
    compare_gradients(ours, theirs, batch)


@pytest.mark.parametrize("head", OF_TEXTS)
def test_a_head_on_what_a_language_model_saved(head, tmp_path):
    """New heads are drawn; the body is what it was. And the other way: a body is opened from what a head saved."""
    theirs, ours = opened("ForConditionalGeneration", tmp_path / "lm")
    kind = getattr(models, f"T5{head}")
    number = 2 if head == "ForQuestionAnswering" else CLASSES
    with pytest.warns(UserWarning, match="drawn anew"):
        made = kind.from_pretrained(tmp_path / "lm", dtype=np.float64, num_labels=number)
    np.testing.assert_array_equal(made.body.embedding.weight, ours.body.embedding.weight)
    made.save_pretrained(tmp_path / "head")
    body, their_body = models.T5EncoderModel, transformers.T5EncoderModel
    if head not in ENCODERS:
        body, their_body = models.T5Model, transformers.T5Model
    again = body.from_pretrained(tmp_path / "head", dtype=np.float64)
    theirs, info = their_body.from_pretrained(
        tmp_path / "head", output_loading_info=True, dtype=torch.float64, attn_implementation="eager"
    )
    assert not info["missing_keys"]
    batch = batch_for("EncoderModel" if head in ENCODERS else "Model")
    compare_outputs(again, theirs, batch)
    auto = getattr(transformers, f"AutoModel{head}").from_pretrained(
        tmp_path / "head", dtype=torch.float64, attn_implementation="eager"
    )
    compare_outputs(made, auto, batch_for(head))


def test_decoder_input_ids_of_ones_own(tmp_path):
    theirs, ours = opened("ForConditionalGeneration", tmp_path)
    batch = batch_for("ForConditionalGeneration", decoder_input_ids=np.arange(15).reshape(3, 5))
    compare_outputs(ours, theirs, batch)
    compare_gradients(ours, theirs, batch)


@each_head
def test_scales(head, tmp_path):
    for std in (0.02, 1.0):
        theirs, ours = opened(head, tmp_path / str(std), std=std)
        compare_outputs(ours, theirs, batch_for(head))
        compare_gradients(ours, theirs, batch_for(head))


@pytest.mark.parametrize("length", [40, 200])
def test_distances_beyond_the_last_bucket(length, tmp_path):
    settings = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}
    theirs, ours = opened("Model", tmp_path, **settings)
    ids = np.random.default_rng(0).integers(0, 19, (1, length))
    batch = {"input_ids": ids, "decoder_input_ids": ids[:, ::-1].copy()}
    compare_outputs(ours, theirs, batch)
    compare_gradients(ours, theirs, batch)


@each_head
@pytest.mark.parametrize("variant", ["tied", "untied"])
def test_dropout(variant, head, tmp_path):
    theirs, ours = opened(head, tmp_path, **VARIANTS[variant], dropout_rate=0.3, classifier_dropout=0.2)
    encoder, decoder = 2 + 2 * 4, 2 + 2 * 6
    draws = encoder + (0 if head in ENCODERS else decoder)
    draws += {"ForSequenceClassification": 2, "ForTokenClassification": 1}.get(head, 0)
    compare_dropout(ours, theirs, batch_for(head), draws=draws)


@pytest.mark.parametrize("variant", ["tied", "untied"])
def test_cached_decoding_gives_their_logits(variant, tmp_path):
    theirs, ours = opened("ForConditionalGeneration", tmp_path, **VARIANTS[variant])
    batch = batch_for("Model", "both", "left")
    ids, mask = batch.pop("decoder_input_ids"), batch.pop("decoder_attention_mask")
    memory, kv_cache = ours.encode(**batch), ours.new_cache()
    past = transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache())
    whole = ours(**batch, decoder_input_ids=ids, decoder_attention_mask=mask)
    for start, end in ((0, 2), (2, 3), (3, 5)):
        step = {"decoder_input_ids": ids[:, start:end], "decoder_attention_mask": mask[:, :end]}
        got = ours.decode(
            step["decoder_input_ids"], memory, attention_mask=batch["attention_mask"],
            decoder_attention_mask=step["decoder_attention_mask"], kv_cache=kv_cache,
        )  # fmt: skip
        expected = run_theirs(theirs, batch | step, **{CACHE: past}, use_cache=True).logits.detach().numpy()
        real = mask[:, start:end] == 1
        np.testing.assert_allclose(got[real], expected[real], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(got[real], whole.logits[:, start:end][real], rtol=1e-10, atol=1e-12)


def test_greedy_decoding_token_by_token(tmp_path):
    several = 0
    for seed in range(4):
        theirs, ours = opened("ForConditionalGeneration", tmp_path / str(seed), 0.7, seed, **VARIANTS["untied"])
        batch = draw_batch(SMALL["vocab_size"], padding="right", seed=seed)
        with in_double():
            expected = theirs.generate(
                **{name: torch.from_numpy(array) for name, array in batch.items()},
                max_new_tokens=8,
                min_new_tokens=8,
                do_sample=False,
            ).numpy()
        memory, kv_cache = ours.encode(**batch), ours.new_cache()
        ids = np.zeros((3, 1), int)
        written = [ids]
        for _ in range(8):
            logits = ours.decode(ids, memory, attention_mask=batch["attention_mask"], kv_cache=kv_cache)[:, -1]
            logits[:, 1] = -np.inf  # the end token
            ids = logits.argmax(axis=1)[:, None]
            written.append(ids)
        several += len(np.unique(expected))
        np.testing.assert_array_equal(np.concatenate(written, axis=1), expected)
    assert several > 16, "models that repeat one token show nothing"


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(OLD, reason="Transformers 4 goes by tie_word_embeddings alone")
@pytest.mark.parametrize("scaled", [None, False, True])
@pytest.mark.parametrize("said", [None, False, True])
@pytest.mark.parametrize("separate", [False, True])
def test_a_head_is_tied_and_scaled_as_theirs(separate, said, scaled, tmp_path):
    theirs, _ = opened("ForConditionalGeneration", tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())
    for name, value in (("tie_word_embeddings", said), ("scale_decoder_outputs", scaled)):
        entries.pop(name, None)
        entries |= {} if value is None else {name: value}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    if separate:
        arrays = load_arrays(tmp_path / "model.safetensors")
        save_arrays(tmp_path / "model.safetensors", arrays | {"lm_head.weight": arrays["shared.weight"] * 2 + 0.1})
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="eager"
    )
    ours = models.T5ForConditionalGeneration.from_pretrained(tmp_path, dtype=np.float64)
    assert ours.config.tie_word_embeddings is not separate
    compare_outputs(ours, theirs, batch_for("ForConditionalGeneration"))
    ours.save_pretrained(tmp_path / "again")
    again = models.T5ForConditionalGeneration.from_pretrained(tmp_path / "again", dtype=np.float64)
    assert again.config == ours.config
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(
        tmp_path / "again", dtype=torch.float64, attn_implementation="eager"
    )
    compare_outputs(again, theirs, batch_for("ForConditionalGeneration"))


def test_a_body_opens_what_a_model_with_a_head_saved_and_the_other_way(tmp_path):
    theirs, ours = opened("ForConditionalGeneration", tmp_path, **VARIANTS["untied"])
    theirs.eval()
    encoder = models.T5EncoderModel.from_pretrained(tmp_path, dtype=np.float64)
    batch = batch_for("EncoderModel")
    compare_outputs(encoder, theirs.encoder, batch)
    body = models.T5Model.from_pretrained(tmp_path, dtype=np.float64)
    np.testing.assert_array_equal(body.encode(**batch), ours.encode(**batch))
    body.save_pretrained(tmp_path / "body")
    opened_again, info = transformers.T5Model.from_pretrained(
        tmp_path / "body", output_loading_info=True, dtype=torch.float64, attn_implementation="eager"
    )
    assert not any(names for what, names in info.items())
    compare_outputs(body, opened_again, batch_for("Model"))


def test_their_auto_classes_open_what_ours_saved(tmp_path):
    config = models.T5Config(**SMALL, tie_word_embeddings=False)
    ours = models.T5ForConditionalGeneration(config, rng=0, dtype=np.float64)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="eager"
    )
    compare_outputs(ours, theirs, batch_for("ForConditionalGeneration"))


def test_weights_are_drawn_as_theirs_are(tmp_path):
    """The deviation of each kind of matrix, by many numbers."""
    sizes = {"vocab_size": 300, "d_model": 64, "d_kv": 16, "d_ff": 100, "num_layers": 2, "num_heads": 8}
    settings = sizes | {
        "initializer_factor": 1.5,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 256,
        "relative_attention_max_distance": 512,
    }
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**settings))
    ours = models.T5ForConditionalGeneration(models.T5Config(**settings), rng=0).to_checkpoint()
    for name, array in theirs.named_parameters():
        expected = array.detach().numpy()
        assert abs(ours[name].std() - expected.std()) <= 0.1 * expected.std(), name
        assert abs(ours[name].mean() - expected.mean()) <= 0.1 * max(1e-9, expected.std()) + 1e-6, name
