"""A body with a head: the forward, backward and loss that all such models share."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.models.batch import as_array, incoming_fields, known_arguments, known_memory, split_batch
from numtx.models.pretrained import PretrainedModel
from numtx.models.tasks import Task


class HeadModel(Task, PretrainedModel):
    """A body, which gives hidden states, and a head, which makes scores of one field of its output.

    A subclass names its task by inheriting from it, and makes `self.body` and `self.head`. The head of a language model
    borrows a table (V, C): that of the embedding if `config.tie_word_embeddings`, else the model's own `decoder`.
    """

    reads: ClassVar[str] = "last_hidden_state"  # the field of the body's output that the head is given
    table: ClassVar[str | None] = None  # the body's parameter that a tied head borrows
    masked: ClassVar[bool] = False  # whether the head is given the padding mask
    new_parts: ClassVar[tuple[str, ...]] = ("head.", "decoder")
    body: Any
    head: Any
    decoder: np.ndarray  # (V, C), of a language model whose head is not tied

    def forward(self, *inputs, rng=None, keep="all", **settings):
        """Return (outputs, cache). The arguments are those of the body; see its `forward`."""
        masks = {} if self.table is not None else self._masks(inputs, settings)  # at the door
        hidden, body = self._body_forward(*inputs, rng=rng, keep=keep, **settings)
        if self.table is None:
            scores, head = self.head.forward(hidden[self.reads], rng=rng, **masks)
        else:
            settings = self._frozen_table() | ({"rng": rng} if isinstance(self.head, nn.MaskedLMHead) else {})
            scores, head = self.head.forward(hidden[self.reads], self._lent(), **settings)
        scores = scores if isinstance(scores, tuple) else (scores,)
        outputs = self.output(**dict(zip(self.fields, scores, strict=True)), **self._shown(hidden))
        given = {field: (one.shape, one.dtype) for field, one in zip(self.fields, scores, strict=True)}
        return outputs, None if body is None else (body, head, given)

    def backward(self, doutputs, cache):
        """Return (None, grads) for `doutputs`, a dict with the gradients of the scores; absent means zero."""
        name = type(self).__name__
        if cache is None:
            raise ValueError(f"{name}: backward after a forward with keep=None or a kv_cache")
        body, head, given = cache
        dscores = tuple(incoming_fields(name, doutputs, given).values())
        dinputs, g_head = self.head.backward(dscores if len(dscores) > 1 else dscores[0], head)
        dx, dtable = (dinputs, None) if self.table is None else dinputs
        g_body = self._body_backward(dx, body)
        return None, self._given_back(g_body, dtable) | {"body": g_body} | ({"head": g_head} if g_head else {})

    def _body_forward(self, *inputs, keep, **settings):
        """Run the body: as for inference where nothing of it learns, with an empty cache."""
        learns = keep is None or self.body.learns()
        hidden, cache = self.body.forward(*inputs, keep=keep if learns else None, **settings)
        return hidden, cache if learns else ()

    def _body_backward(self, dx, cache):
        """Return the gradients of the body for that of the field that the head reads."""
        return {} if cache == () else self.body.backward({self.reads: dx}, cache)[1]

    def __call__(self, *inputs, **settings):
        """Return the outputs; with labels their loss too."""
        labels = {name: settings.pop(name) for name in self.label_names if settings.get(name) is not None}
        settings = {name: value for name, value in settings.items() if value is not None}
        given = known_arguments(type(self).__name__, type(self.body).forward, inputs, settings)
        if labels:
            labels = self.checked(labels, self._source_shape(given))
            made = self.prepared(given, labels)
            settings |= {name: value for name, value in made.items() if name not in given}
        outputs = self.forward(*inputs, keep=None, **settings)[0]
        return replace(outputs, loss=self.loss_of(outputs, labels)[0]) if labels else outputs

    def loss(self, batch, num_items=None, label_smoothing=0.0):
        """Return the loss alone, without dropout. The arguments are those of `loss_and_grads`."""
        inputs, labels = self.split(batch)
        return self.loss_of(self.forward(**inputs, keep=None)[0], labels, num_items, label_smoothing)[0]

    def loss_and_grads(self, batch, rng=None, num_items=None, keep="all", label_smoothing=0.0):
        """Return the loss of a batch, and the gradients of the parameters.

        Parameters
        ----------
        batch : dict
            The arguments of the call, labels among them.
        rng : np.random.Generator or None
            For dropout.
        num_items : int or None
            What the sum of the losses is divided by: the real labels of the batch if None. Those who split a batch pass
            the count of the whole, and add.
        keep : "all" or "inputs"
        label_smoothing : float in [0, 1], ε
            Each label's one-hot target becomes (1 - ε) of it and ε / V of every class.
        """
        inputs, labels = self.split(batch)
        outputs, cache = self.forward(**inputs, rng=rng, keep=keep)
        loss, loss_cache = self.loss_of(outputs, labels, num_items, label_smoothing)
        return loss, self.backward(self.loss_backward(loss_cache), cache)[1]

    def count_labels(self, batch) -> int:
        """Return how many labels of a batch are predicted."""
        return self.count_items(self.split(batch)[1])

    def split(self, batch):
        """Split a batch into the arguments of `forward` and the labels; entries that are None are not there."""
        given, labels = split_batch(type(self).__name__, batch, self.arguments, self.label_names)
        labels = self.checked(labels, self._source_shape(given))
        return self.prepared(given, labels), labels

    def prepared(self, inputs: dict[str, Any], labels: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the arguments of `forward`, with those that follow from the labels."""
        return inputs

    def _source_shape(self, given):
        """The shape (B, T) of the source that a batch holds: its ids, or what an encoder made of them."""
        name = type(self).__name__
        if given.get("input_ids") is not None:
            return as_array(name, "input_ids", given["input_ids"]).shape
        return known_memory(name, given["encoder_outputs"])[0].shape[:2]

    def _lent(self):
        return self.body.get_parameter(self.table) if self.config.tie_word_embeddings else self.decoder

    def _frozen_table(self):
        """What the head is told of the table that it borrows."""
        owner, name = (self.body, self.table) if self.config.tie_word_embeddings else (self, "decoder")
        return nn.told(("weight",) if owner.is_frozen(name or "") else ())

    def _given_back(self, g_body, dtable, ids=None):
        """Add the gradient of the borrowed table to its owner's, which was used twice; None where it has none.

        Where the model has a table of its own, its gradient is returned. With the `ids` that the body read, only their
        rows of the owner's gradient are gone through: the others are zero.
        """
        if dtable is None:
            return {}
        if not self.config.tie_word_embeddings:
            return {"decoder": dtable}
        *path, last = (self.table or "").split(".")
        for part in path:
            g_body = g_body[part]
        if ids is None:
            g_body[last] += dtable
        else:
            used = np.unique(ids)
            dtable[used] += g_body[last][used]
            g_body[last] = dtable
        return {}

    def _masks(self, inputs, settings):
        if not self.masked:
            return {}
        given = dict(zip(self.arguments, inputs, strict=False)) | settings
        mask = given.get("attention_mask")
        return {} if mask is None else {"mask": F.padding_mask(np.asarray(mask))}

    def _shown(self, hidden):
        """The fields of the body's output that the model's own output has too."""
        own = self.output.__dataclass_fields__
        return {name: hidden[name] for name in hidden if name in own}


class OnBody(HeadModel):
    """A head on a body that a class makes: a subclass names the class and its settings, and makes the head."""

    body_class: ClassVar[Any]
    body_settings: ClassVar[dict[str, Any]] = {}
    head_names: ClassVar[tuple[tuple[Any, ...], ...]] = ()  # the rows of the head in the table of names

    def __init__(self, config, *, rng=None, dtype=np.float32):
        self.config = config
        with nn.init.undrawn():
            self.body = self.body_class(config, **self.body_settings, dtype=dtype)
            self.head = self._make_head(config, dtype)
            if self.table is not None and not config.tie_word_embeddings:
                self.decoder = nn.init.normal(self.body.get_parameter(self.table).shape, 1.0, None, dtype)
        self.draw(np.random.default_rng(rng))

    def _make_head(self, config, dtype):
        raise TypeError(f"{type(self).__name__} has no head")

    @classmethod
    def rows_with_head(cls, body_rows):
        """Return the rows of the table of names: those of the body, and the head's."""
        rows = [(f"body.{ours}", *theirs) for ours, *theirs in body_rows]
        return rows + [(f"head.{ours}", *theirs) for ours, *theirs in cls.head_names]
