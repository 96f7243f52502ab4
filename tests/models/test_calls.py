"""What every model with a head says of a call, a batch or labels that cannot be: one line, in its own name."""

import numpy as np
import pytest

from numtx import models
from numtx.models.batch import incoming_fields, known_memory

BERT = {
    "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6,
    "max_position_embeddings": 9,
}  # fmt: skip
GPT2 = {"vocab_size": 11, "n_positions": 9, "n_embd": 8, "n_layer": 1, "n_head": 2}
BART = {f"{side}_{size}": 2 for side in ("encoder", "decoder") for size in ("layers", "attention_heads", "ffn_dim")}
BART |= {"vocab_size": 11, "d_model": 8, "max_position_embeddings": 9}
T5 = {
    "vocab_size": 11,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 6,
    "num_layers": 1,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
LLAMA = {
    "vocab_size": 11, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
SIZES = {"Bert": BERT, "Bart": BART, "GPT2": GPT2, "T5": T5, "Llama": LLAMA}
IDS = np.array([[2, 3, 4], [5, 6, 2]])
THREE = {0: "a", 1: "b", 2: "c"}


def make(name, **settings):
    family = next(family for family in SIZES if name.startswith(family))
    return getattr(models, name)(getattr(models, f"{family}Config")(**SIZES[family] | settings), rng=0)


KINDS = (
    "BertModel", "BertForSequenceClassification", "BertForMaskedLM", "BartModel", "BartForConditionalGeneration",
    "GPT2Model", "GPT2LMHeadModel", "GPT2ForSequenceClassification", "T5EncoderModel", "T5ForConditionalGeneration",
    "LlamaForCausalLM",
)  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_call_without_ids_or_with_what_there_is_not(name):
    model = make(name)
    with pytest.raises(ValueError, match=rf"^{name}: expected input_ids \(B, T\), got none$"):
        model()
    with pytest.raises(ValueError, match=rf"^{name}: expected input_ids \(B, T\), got none$"):
        model(attention_mask=np.ones((2, 3)))
    for unknown in ("return_dict", "inputs_embeds", "use_cache", "keep"):
        with pytest.raises(ValueError, match=rf"^{name}: expected arguments among input_ids, .*, got {unknown}$"):
            model(IDS, **{unknown: True})
    with pytest.raises(ValueError, match=rf"^{name}: expected each argument once, got input_ids by place and by name$"):
        model(IDS, input_ids=IDS)
    with pytest.raises(ValueError, match=rf"^{name}: expected arguments input_ids, .*, got 9 without a name$"):
        model(*[IDS] * 9)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "GPT2ForSequenceClassification", "BartModel"])
def test_rows_of_unequal_length(name):
    model = make(name, pad_token_id=1)
    with pytest.raises(ValueError, match=r"^\w+: expected input_ids in rows of one length \(padding=True pads them\)"):
        model([[1, 2], [3]])
    with pytest.raises(ValueError, match=r"^\w+: expected attention_mask in rows of one length"):
        model([[1, 2], [3, 2]], [[1, 1], [1]])


@pytest.mark.parametrize("name", [name for name in KINDS if "For" in name or "Head" in name])
def test_a_batch_is_a_dict(name):
    for call in (make(name).loss, make(name).loss_and_grads, make(name).count_labels):
        with pytest.raises(ValueError, match=rf"^{name}: expected a batch of input_ids, .*, got list$"):
            call([1])
        with pytest.raises(ValueError, match=rf"^{name}: expected a batch of input_ids, .*, got nothing$"):
            call({})


def test_a_batch_may_hold_the_arguments_that_only_show():
    model, batch = make("BertForMaskedLM"), {"input_ids": IDS, "labels": IDS}
    shown = {"output_hidden_states": True, "output_attentions": False}
    assert model.loss_and_grads(batch | shown)[0] == model.loss_and_grads(batch)[0]


# --- labels of a sequence ---------------------------------------------------------------------------------------------

CLASSES = {"id2label": THREE, "problem_type": "single_label_classification"}
NUMBERS = {"id2label": THREE, "problem_type": "regression"}
SEVERAL = {"id2label": THREE, "problem_type": "multi_label_classification"}
ONE = {"id2label": {0: "a"}}
WRONG_LABELS = {
    "transposed": (NUMBERS, np.zeros((3, 2)), r"\(2, 3\) of numbers, got float64 \(3, 2\)"),
    "flat": (NUMBERS, np.zeros(6), r"\(2, 3\) of numbers, got float64 \(6,\)"),
    "several, flat": (SEVERAL, np.zeros(6), r"\(2, 3\) of numbers, got float64 \(6,\)"),
    "nothing inside": (NUMBERS, [[None] * 3] * 2, r"\(2, 3\) of numbers, got object \(2, 3\)"),
    "text": (ONE, np.array(["a", "b"]), r"\(2,\) of numbers, got <U1 \(2,\)"),
    "one number, lying": (ONE, np.zeros((1, 2)), r"\(2,\) of numbers, got float64 \(1, 2\)"),
    "classes, lying": (CLASSES, np.array([[0, 1]]), r"\(2,\), got \(1, 2\)"),
    "classes, twice": (CLASSES, np.array([[0, 1], [1, 0]]), r"\(2,\), got \(2, 2\)"),
    "ragged": (NUMBERS, [[1.0], [1.0, 2.0]], "in rows of one length"),
}


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "BartForSequenceClassification"])
@pytest.mark.parametrize(("settings", "labels", "said"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_labels_of_another_shape_are_refused(name, settings, labels, said):
    model = make(name, **settings)
    for call in (lambda: model(IDS, labels=labels), lambda: model.loss({"input_ids": IDS, "labels": labels})):
        with pytest.raises(ValueError, match=rf"^{name}: expected labels {said}"):
            call()


def test_a_column_of_labels_is_labels():
    for settings, labels in ((CLASSES, np.array([0, 2])), (ONE, np.array([0.5, 2.0])), (ONE, np.array([1, 0]))):
        model = make("BertForSequenceClassification", **settings)
        assert model(IDS, labels=labels[:, None]).loss == model(IDS, labels=labels).loss
    model = make("BertForQuestionAnswering")
    ends = {"start_positions": np.array([0, 1]), "end_positions": np.array([1, 2])}
    columns = {name: given[:, None] for name, given in ends.items()}
    assert model(IDS, **columns).loss == model(IDS, **ends).loss
    with pytest.raises(ValueError, match=r"expected integer start_positions \(2,\), got int64 \(1, 2\)"):
        model(IDS, **{name: given[None] for name, given in ends.items()})


# --- a row that is all padding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["GPT2ForSequenceClassification", "LlamaForSequenceClassification"])
def test_a_row_of_padding_has_no_last_token(name, monkeypatch):
    model, ids = make(name, pad_token_id=1), np.array([[2, 3, 4], [1, 1, 1], [1, 1, 1]])
    assert np.isfinite(model(ids[:1]).logits).all()
    monkeypatch.delattr(type(model.body), "forward")  # at the door
    said = rf"^{name}: expected a token besides padding \(id 1\) in each row, got none in row 1$"
    for call in (lambda: model.forward(ids), lambda: model.loss({"input_ids": ids, "labels": [0, 1, 0]})):
        with pytest.raises(ValueError, match=said):
            call()


# --- what an encoder gave before --------------------------------------------------------------------------------------

LABELS = np.array([[3, 4], [5, 2]])


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "T5ForConditionalGeneration"])
def test_what_the_encoder_gave_comes_in_any_form_with_labels(name):
    model = make(name)
    memory, asked = model.encode(IDS), model(IDS, labels=LABELS)
    whole = model.body(IDS, decoder_input_ids=LABELS)
    for form in (memory, [memory], (memory, None), asked, whole):  # theirs would take the decoder's state of `whole`
        again = model(encoder_outputs=form, labels=LABELS)
        assert again.loss == asked.loss
        np.testing.assert_array_equal(again.logits, asked.logits)
    with pytest.raises(ValueError, match=r"expected labels \(2, 2\), got \(1, 2\)"):
        model(encoder_outputs=memory, labels=LABELS[:1])
    with pytest.raises(ValueError, match=r"expected encoder_outputs as an array .* got str"):
        model(encoder_outputs="memory", labels=LABELS)
    wrong = ((memory[..., :4], r"\(2, 3, 4\)"), (memory.astype(np.float64), "float64"), (memory[0], r"\(3, 8\)"))
    for form, got in wrong:
        with pytest.raises(ValueError, match=rf"expected encoder_outputs float32 \(B, Ts, 8\), got .*{got}"):
            model(encoder_outputs=form, decoder_input_ids=LABELS)


def test_ids_beside_what_the_encoder_gave_are_checked():
    model = make("BartForConditionalGeneration")
    memory = model.encode(IDS)
    again = model(IDS, encoder_outputs=memory, labels=LABELS)
    np.testing.assert_array_equal(again.logits, model(IDS, labels=LABELS).logits)
    with pytest.raises(ValueError, match=r"BartModel: expected input_ids in \[0, 11\), got 12"):
        model(IDS + 6, encoder_outputs=memory, labels=LABELS)
    with pytest.raises(ValueError, match=r"BartModel: expected encoder_outputs of input_ids \(2, 2\), got \(2, 3, 8\)"):
        model(IDS[:, :2], encoder_outputs=memory, labels=LABELS)
    with pytest.raises(ValueError, match=r"expected decoder_input_ids of 1 rows, got \(2, 2\)"):
        model(encoder_outputs=memory[:1], decoder_input_ids=LABELS)


# --- the helpers ------------------------------------------------------------------------------------------------------


def test_memory_of_the_wrong_outputs():
    with pytest.raises(ValueError, match=r"^M: expected encoder_outputs as an array .* got tuple$"):
        known_memory("M", (None, None))


def test_gradients_that_came_as_none_are_absent():
    found = incoming_fields("M", {"a": None}, {"a": ((2,), np.float32), "b": ((1,), np.float64)})
    assert {name: (one.dtype, one.tolist()) for name, one in found.items()} == {
        "a": (np.float32, [0, 0]),
        "b": (np.float64, [0]),
    }
    with pytest.raises(ValueError, match=r"^M: expected a dict of gradients of a, got ndarray$"):
        incoming_fields("M", np.ones(2), {"a": ((2,), np.float64)})
