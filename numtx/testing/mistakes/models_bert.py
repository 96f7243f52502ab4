"""Classic mistakes in BERT and its relatives: the embeddings, the positions, what is tied and what is pooled."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.models.bert import BertConfig, BertForMaskedLM, BertModel
from numtx.models.bert_body import BertEmbeddings
from numtx.models.distilbert import DistilBertConfig, DistilBertModel
from numtx.models.roberta import RobertaConfig, RobertaModel
from numtx.testing.adapter import Draft, component_case
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case
from numtx.testing.specs.models_bert import build

right_embeddings, right_embeddings_backward = BertEmbeddings.forward, BertEmbeddings.backward
right_body, right_body_backward = BertModel.forward, BertModel.backward
right_masked_lm_backward = BertForMaskedLM.backward
right_roberta = RobertaModel.forward
right_distilbert = DistilBertModel.forward

IDS = np.array([[2, 3, 2], [4, 2, 3]])
TYPES = np.array([[0, 0, 1], [0, 1, 1]])
PADDED = np.array([[1, 1, 0], [1, 1, 1]])
OPTIONS = {
    "vocab_size": 5,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 3,
    "hidden_act": "gelu",
    "max_position_embeddings": 6,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": None,
}
PLAIN = {"rng": None, "keep": "all"}


def embeddings_case() -> Case:
    """Two pairs of sentences."""
    options = {"vocab_size": 5, "width": 4, "num_positions": 6, "num_types": 2, "eps": 1e-3, "dropout": 0.0}
    draft = Draft(options, {"ids": IDS, "types": TYPES}, {"positions": None, "rng": None})
    return component_case(lambda dtype, **given: BertEmbeddings(**given, rng=0, dtype=dtype), draft)


def inputs(ids: np.ndarray = IDS, mask: np.ndarray | None = None, types: np.ndarray | None = None) -> dict[str, Any]:
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "position_ids": None}


def body_case(mask: np.ndarray | None = None, types: np.ndarray | None = None) -> Case:
    """Two sequences."""
    return component_case(build(BertModel, BertConfig), Draft(OPTIONS, inputs(IDS, mask, types), PLAIN))


def masked_lm_case() -> Case:
    """A tied head."""
    options = {**OPTIONS, "tie_word_embeddings": True}
    return component_case(build(BertForMaskedLM, BertConfig), Draft(options, inputs(), PLAIN))


def roberta_case() -> Case:
    """Padding at the end and in the middle, id 1."""
    ids, mask = np.array([[2, 3, 4, 1], [2, 1, 3, 2]]), np.array([[1, 1, 1, 0], [1, 0, 1, 1]])
    options = {**OPTIONS, "pad_token_id": 1, "max_position_embeddings": 7}
    return component_case(build(RobertaModel, RobertaConfig), Draft(options, inputs(ids, mask), PLAIN))


def distilbert_case() -> Case:
    """One sequence longer than the other."""
    options = {
        "vocab_size": 5, "dim": 4, "n_layers": 1, "n_heads": 2, "hidden_dim": 3, "activation": "gelu",
        "max_position_embeddings": 6, "dropout": 0.0, "attention_dropout": 0.0, "pad_token_id": None,
    }  # fmt: skip
    given = {"input_ids": IDS, "attention_mask": PADDED, "position_ids": None}
    return component_case(build(DistilBertModel, DistilBertConfig), Draft(options, given, PLAIN))


# --- embeddings ------------------------------------------------------------------------------------------------------


def segments_forgotten(self: Any, ids: Any, types: Any = None, **given: Any) -> Any:
    return right_embeddings(self, ids, None, **given)


def normed_before_the_position(
    self: Any, ids: Any, types: Any = None, *, positions: Any = None, rng: Any = None
) -> Any:
    _, cache = right_embeddings(self, ids, types, positions=positions, rng=rng)
    x = self.words.forward(ids)[0]
    if self.types is not None:
        x = x + self.types.forward(np.zeros_like(ids) if types is None else types)[0]
    return self.positions.forward(self.norm.forward(x)[0], positions=positions)[0], cache


def segments_without_gradient(self: Any, dy: Any, cache: Any) -> Any:
    _, grads = right_embeddings_backward(self, dy, cache)
    if "types" in grads:
        grads["types"] = {"weight": np.zeros_like(grads["types"]["weight"])}
    return None, grads


# --- bodies ----------------------------------------------------------------------------------------------------------


def padding_seen(self: Any, input_ids: Any, attention_mask: Any = None, *others: Any, **given: Any) -> Any:
    return right_body(self, input_ids, None, *others, **given)


def distilbert_padding_seen(self: Any, input_ids: Any, attention_mask: Any = None, *others: Any, **given: Any) -> Any:
    return right_distilbert(self, input_ids, None, *others, **given)


def mask_taken_for_segments(
    self: Any, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None, *others: Any, **given: Any
) -> Any:
    return right_body(self, input_ids, token_type_ids, attention_mask, *others, **given)


def pooler_overwrites(self: Any, doutputs: Any, cache: Any) -> Any:
    if self.pooler is not None:
        doutputs = {**doutputs, "last_hidden_state": doutputs["last_hidden_state"].copy()}
        doutputs["last_hidden_state"][:, 0] = 0
    return right_body_backward(self, doutputs, cache)


# --- heads and positions ---------------------------------------------------------------------------------------------


def head_overwrites_the_table(self: Any, doutputs: Any, cache: Any) -> Any:
    grads = right_masked_lm_backward(self, doutputs, cache)[1]
    if self.config.tie_word_embeddings:
        (_, dtable), _ = self.head.backward(doutputs["logits"], cache[1])
        grads["body"]["embeddings"]["words"]["weight"] = dtable
    return None, grads


def head_forgets_the_table(self: Any, doutputs: Any, cache: Any) -> Any:
    grads = right_masked_lm_backward(self, doutputs, cache)[1]
    if self.config.tie_word_embeddings:
        (_, dtable), _ = self.head.backward(doutputs["logits"], cache[1])
        grads["body"]["embeddings"]["words"]["weight"] -= dtable
    return None, grads


def positions_from_zero(
    self: Any, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None, position_ids: Any = None,
    **given: Any,
) -> Any:  # fmt: skip
    places = np.arange(np.shape(input_ids)[1]) if position_ids is None else position_ids
    return right_roberta(self, input_ids, attention_mask, token_type_ids, places, **given)


def positions_count_padding(
    self: Any, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None, position_ids: Any = None,
    **given: Any,
) -> Any:  # fmt: skip
    places = np.arange(np.shape(input_ids)[1]) + self.config.pad_token_id + 1 if position_ids is None else position_ids
    return right_roberta(self, input_ids, attention_mask, token_type_ids, places, **given)


BERT, ROBERTA, DISTILBERT = "numtx.models.bert", "numtx.models.roberta", "numtx.models.distilbert"
MISTAKES = [
    Mistake(
        name="BertEmbeddings without segments",
        of="BertEmbeddings",
        why="With one sentence all segments are 0, and a row that all tokens get is easily overlooked.",
        hint="Compare a pair of sentences with the same tokens taken as one sentence.",
        forward=segments_forgotten,
        owner="numtx.models.bert_body.BertEmbeddings",
        witness=embeddings_case,
    ),
    Mistake(
        name="BertEmbeddings normed before the position is added",
        of="BertEmbeddings",
        why="BART and others norm at other places; in BERT the norm comes last, over the sum of all three rows.",
        hint="Look at the mean and variance over the width of what comes out: the norm sets them.",
        forward=normed_before_the_position,
        owner="numtx.models.bert_body.BertEmbeddings",
        witness=embeddings_case,
    ),
    Mistake(
        name="BertEmbeddings gives the segments no gradient",
        of="BertEmbeddings",
        why="The table has two rows and is taken for a constant.",
        hint="Check the gradient of each of the three tables.",
        backward=segments_without_gradient,
        owner="numtx.models.bert_body.BertEmbeddings",
        witness=embeddings_case,
    ),
    Mistake(
        name="BertModel sees padding",
        of="BertModel",
        why="The attention mask is taken and not passed on to the stack.",
        hint="Change the tokens that stand at padding: nothing else may change.",
        forward=padding_seen,
        owner=f"{BERT}.BertModel",
        witness=lambda: body_case(PADDED),
    ),
    Mistake(
        name="BertModel takes segments for the attention mask",
        of="BertModel",
        why="Tokenizers and models name the two in different orders; given by position, they change places.",
        hint="Look at the attention weights of the first token.",
        forward=mask_taken_for_segments,
        owner=f"{BERT}.BertModel",
        witness=lambda: body_case(np.ones_like(IDS), np.array([[1, 1, 0], [1, 1, 1]])),
    ),
    Mistake(
        name="BertModel's pooler overwrites the gradient of the first row",
        of="BertModel",
        why="The first row is read twice, by whoever takes the last hidden state and by the pooler.",
        hint="Give both outputs a gradient, not one of them.",
        backward=pooler_overwrites,
        owner=f"{BERT}.BertModel",
        witness=body_case,
    ),
    Mistake(
        name="BertForMaskedLM's tied head overwrites the embedding's gradient",
        of="BertForMaskedLM",
        why="The table was used twice; the second gradient is assigned and not added.",
        hint="Compare the table's gradient with that of an untied model: two tables, two gradients.",
        backward=head_overwrites_the_table,
        owner=f"{BERT}.BertForMaskedLM",
        witness=masked_lm_case,
    ),
    Mistake(
        name="BertForMaskedLM's tied head gives the table no gradient",
        of="BertForMaskedLM",
        why="The head has no weight of its own, and what it borrows is taken for a constant.",
        hint="Look at the gradient of a row whose token does not occur in the batch.",
        backward=head_forgets_the_table,
        owner=f"{BERT}.BertForMaskedLM",
        witness=masked_lm_case,
    ),
    Mistake(
        name="RobertaModel counts positions from zero",
        of="RobertaModel",
        why="BERT does. RoBERTa's table keeps its rows up to the padding id free: the first token is at pad + 1.",
        hint="Which row of the table of positions belongs to the first token?",
        forward=positions_from_zero,
        owner=f"{ROBERTA}.RobertaModel",
        witness=roberta_case,
    ),
    Mistake(
        name="RobertaModel counts padding in its positions",
        of="RobertaModel",
        why="pad + 1 + (0, 1, 2 ...) is right as long as padding stands on the right, where nobody looks.",
        hint="Pad the same sequence on the left: its real tokens must keep their hidden states.",
        forward=positions_count_padding,
        owner=f"{ROBERTA}.RobertaModel",
        witness=roberta_case,
    ),
    Mistake(
        name="DistilBertModel sees padding",
        of="DistilBertModel",
        why="The attention mask is taken and not passed on to the stack.",
        hint="Change the tokens that stand at padding: nothing else may change.",
        forward=distilbert_padding_seen,
        owner=f"{DISTILBERT}.DistilBertModel",
        witness=distilbert_case,
    ),
]
