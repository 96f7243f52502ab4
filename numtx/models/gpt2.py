"""GPT-2: a decoder-only language model, pre-norm, with learned positions and a head tied to the embedding.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
"""

from dataclasses import asdict, dataclass, fields

import numpy as np

from numtx import nn
from numtx.checkpoints import TRANSPOSED, NameTable
from numtx.functional.door import count, positive, rate
from numtx.models.batch import incoming, known_ids, known_labels, padding, split_batch
from numtx.models.files import open_folder, save_folder
from numtx.models.loss import (
    count_labels,
    linear_next_token_loss,
    linear_next_token_loss_backward,
    next_token_loss,
    next_token_loss_backward,
)
from numtx.models.output import CausalLMOutput
from numtx.models.writing import WritesOn

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

# Both store weights as (in, out), and q, k and v side by side, so nothing is transposed but the untied head.
NAMES = [
    ("embedding.weight", "transformer.wte.weight"),
    ("positions.weight", "transformer.wpe.weight"),
    *(
        (f"stack.layers.{{i}}.{ours}", f"transformer.h.{{i}}.{theirs}")
        for ours, theirs in (
            ("attention.norm.weight", "ln_1.weight"),
            ("attention.norm.bias", "ln_1.bias"),
            ("attention.sublayer.in_proj_weight", "attn.c_attn.weight"),
            ("attention.sublayer.in_proj_bias", "attn.c_attn.bias"),
            ("attention.sublayer.out_proj.weight", "attn.c_proj.weight"),
            ("attention.sublayer.out_proj.bias", "attn.c_proj.bias"),
            ("feed_forward.norm.weight", "ln_2.weight"),
            ("feed_forward.norm.bias", "ln_2.bias"),
            ("feed_forward.sublayer.up.weight", "mlp.c_fc.weight"),
            ("feed_forward.sublayer.up.bias", "mlp.c_fc.bias"),
            ("feed_forward.sublayer.down.weight", "mlp.c_proj.weight"),
            ("feed_forward.sublayer.down.bias", "mlp.c_proj.bias"),
        )
    ),
    ("stack.norm.weight", "transformer.ln_f.weight"),
    ("stack.norm.bias", "transformer.ln_f.bias"),
]
HEAD_NAME = ("head.weight", "lm_head.weight", TRANSPOSED)
LARGE_VOCABULARY = 8192  # from here on the loss is computed without all logits: below, they are small and no slower
MASK_BUFFERS = ("transformer.h.{i}.attn.bias", "transformer.h.{i}.attn.masked_bias")


@dataclass
class GPT2Config:
    """The settings of a GPT-2, by the names of its `config.json`.

    Examples
    --------
    >>> GPT2Config(vocab_size=65, n_positions=64, n_embd=128, n_layer=4, n_head=4).hidden
    512
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self):
        sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", *(["n_inner"] if self.n_inner else []))
        count("GPT2Config", 1, **{name: getattr(self, name) for name in sizes})
        if self.n_embd % self.n_head:
            raise ValueError(f"GPT2Config: expected heads that divide the width {self.n_embd}, got {self.n_head}")
        if str(self.activation_function) not in ACTIVATIONS:
            raise ValueError(
                f"GPT2Config: expected an activation of {', '.join(ACTIVATIONS)}, got {self.activation_function!r}"
            )
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
            rate("GPT2Config", name, getattr(self, name))
        positive("GPT2Config", layer_norm_epsilon=self.layer_norm_epsilon, initializer_range=self.initializer_range)
        for name in ("bos_token_id", "eos_token_id"):
            if getattr(self, name) is not None:
                count("GPT2Config", 0, **{name: getattr(self, name)})

    @property
    def context(self) -> int:
        """The longest sequence that the model takes."""
        return self.n_positions

    @property
    def hidden(self) -> int:
        """The width of the feed-forward networks."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def to_dict(self) -> dict:
        """Return the entries of a `config.json` that Transformers opens."""
        return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **asdict(self)}

    @classmethod
    def from_dict(cls, entries: dict) -> "GPT2Config":
        """Read a `config.json`; entries that do not bear on the computation are passed over."""
        if entries.get("model_type") != "gpt2":
            raise ValueError(f"GPT2Config: expected model_type 'gpt2', got {entries.get('model_type')!r}")
        switches = {"scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "add_cross_attention": False}
        for name, only in switches.items():
            if entries.get(name, only) is not only:
                raise ValueError(f"GPT2Config: expected {name} {only}, got {entries[name]}")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in entries.items() if name in known})


class GPT2LMHeadModel(WritesOn, nn.Module):
    """GPT-2 with its language-model head: ids (B, T) -> the scores of what comes next, (B, T, V).

    Examples
    --------
    >>> config = GPT2Config(vocab_size=5, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    >>> model = GPT2LMHeadModel(config, rng=0)
    >>> model(np.array([[1, 2, 3]])).logits.shape
    (1, 3, 5)
    >>> loss, grads = model.loss_and_grads({"input_ids": np.array([[1, 2, 3]]), "labels": np.array([[1, 2, 3]])})
    >>> list(grads)
    ['embedding', 'positions', 'stack']
    >>> model.generate(np.array([[1, 2, 3]]), max_new_tokens=4).shape
    (1, 7)
    """

    arguments = ("input_ids", "attention_mask", "position_ids")

    def __init__(self, config: GPT2Config, *, rng=None, dtype=np.float32):
        rng = np.random.default_rng(rng)
        width, std = config.n_embd, config.initializer_range
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, width, std=std, rng=rng, dtype=dtype)
        self.positions = nn.LearnedPositions(config.n_positions, width, std=std, rng=rng, dtype=dtype)
        self.embedding_dropout = nn.Dropout(config.embd_pdrop)
        blocks = [
            nn.DecoderBlock(
                width,
                config.n_head,
                config.hidden,
                activation=ACTIVATIONS[config.activation_function],
                eps=config.layer_norm_epsilon,
                dropout=config.resid_pdrop,
                attention_dropout=config.attn_pdrop,
                rng=rng,
                dtype=dtype,
            )
            for _ in range(config.n_layer)
        ]
        self.stack = nn.Decoder(blocks, nn.LayerNorm(width, config.layer_norm_epsilon, dtype=dtype))
        self.head: nn.Module
        if config.tie_word_embeddings:
            self.head = nn.TiedLMHead()
        else:
            self.head = nn.Linear(width, config.vocab_size, bias=False, rng=rng, dtype=dtype)
        self._draw_blocks(rng)

    def _draw_blocks(self, rng):
        """Draw every matrix of the blocks from N(0, std²), those that end a residual branch from N(0, std²/2L).

        2L branches add up in the residual stream; so scaled, its variance does not grow with depth. Section 2.3.
        """
        std = self.config.initializer_range
        for name, array in self.named_parameters():
            if not name.startswith(("embedding.", "positions.")) and array.ndim == 2:
                ends_branch = name.endswith(("out_proj.weight", "down.weight"))
                array[...] = rng.standard_normal(array.shape) * (
                    std / np.sqrt(2 * self.config.n_layer) if ends_branch else std
                )
            elif name.endswith("bias"):
                array[...] = 0

    def __call__(self, input_ids, attention_mask=None, position_ids=None, *, kv_cache=None):
        return self.forward(input_ids, attention_mask, position_ids, kv_cache=kv_cache, keep=None)[0]

    def forward(self, input_ids, attention_mask=None, position_ids=None, *, kv_cache=None, rng=None, keep="all"):
        """Return (CausalLMOutput, cache).

        Parameters
        ----------
        input_ids : (B, T) integer array
        attention_mask : (B, T) array of 1 for a token and 0 for padding, or None
            With a `kv_cache` it covers the old tokens too: (B, old + T).
        position_ids : (T,) or (B, T) integer array or None
            Default: 0, 1, 2 ...; with a `kv_cache`, on from the old tokens. Left padding needs them.
        kv_cache : list of one KVCache a layer, or None
        rng : np.random.Generator or None
            None means no dropout.
        keep : "all", "inputs" or None
            As in `nn.Decoder`.
        """
        x, hidden = self._hidden(input_ids, attention_mask, position_ids, kv_cache, rng, keep)
        logits, head = self.head.forward(x, *self._lent())  # (B, T, V)
        return CausalLMOutput(logits), None if hidden is None else (hidden, head, logits.shape)

    def _hidden(self, input_ids, attention_mask=None, position_ids=None, kv_cache=None, rng=None, keep=None):
        """Return what the head reads, (B, T, C), and its cache."""
        name, config, old = type(self).__name__, self.config, len(kv_cache[0]) if kv_cache else 0
        context = ("n_positions", config.n_positions)
        ids = known_ids(name, "input_ids", input_ids, config.vocab_size, context=context, old=old)
        mask = padding(name, "attention_mask", attention_mask, (len(ids), old + ids.shape[1]))
        positions = np.arange(old, old + ids.shape[1]) if position_ids is None else position_ids
        x, embedded = self.embedding.forward(ids)  # (B, T, C)
        x, placed = self.positions.forward(x, positions=positions)
        x, drop = self.embedding_dropout.forward(x, rng=rng)
        x, stack = self.stack.forward(x, mask=mask, kv_cache=kv_cache, rng=rng, keep=keep)
        return x, None if stack is None else (embedded, placed, drop, stack)

    def backward(self, doutputs, cache):
        """Return (None, grads) for `doutputs`, a dict with the gradient of "logits"; absent means zero."""
        if cache is None:
            raise ValueError("GPT2LMHeadModel: backward after a forward with keep=None or a kv_cache")
        hidden, head, shape = cache
        dlogits = incoming("GPT2LMHeadModel", "logits", doutputs, shape, self.dtype)
        dinputs, g_head = self.head.backward(dlogits, head)
        dx, dtable = dinputs if self.config.tie_word_embeddings else (dinputs, None)
        grads = self._hidden_backward(dx, hidden)
        if dtable is not None:
            grads["embedding"]["weight"] += dtable  # the table was used twice
        return None, grads | ({"head": g_head} if g_head else {})

    def _hidden_backward(self, dx, cache):
        """Return the gradients of all but the head, for that of what the head reads."""
        if cache is None:
            raise ValueError("GPT2LMHeadModel: backward after a forward with keep=None or a kv_cache")
        embedded, placed, drop, stack = cache
        dx, g_stack = self.stack.backward(dx, stack)
        dx, _ = self.embedding_dropout.backward(dx, drop)
        dx, g_positions = self.positions.backward(dx, placed)
        _, g_embedding = self.embedding.backward(dx, embedded)
        return {"embedding": g_embedding, "positions": g_positions, "stack": g_stack}

    def _lent(self):
        return (self.embedding.weight,) if self.config.tie_word_embeddings else ()

    def _head_weight(self):
        """The head's weight (C, V): its own, or the embedding's table, seen from its side."""
        return self.embedding.weight.T if self.config.tie_word_embeddings else self.get_parameter("head.weight")

    def loss(self, batch, num_items=None):
        """Return the loss alone, without dropout. The arguments are those of `loss_and_grads`."""
        inputs, labels = self._inputs_and_labels(batch)
        if self.config.vocab_size >= LARGE_VOCABULARY:
            x, _ = self._hidden(**inputs)
            return linear_next_token_loss(x, self._head_weight(), **labels, num_items=num_items, keep=None)[0]
        return next_token_loss(self(**inputs).logits, **labels, num_items=num_items)[0]

    def loss_and_grads(self, batch, rng=None, num_items=None, keep="all"):
        """Return the mean cross-entropy of the next token, in nats, and the gradients of the parameters.

        Parameters
        ----------
        batch : dict
            The arguments of `forward` (`input_ids`, `attention_mask`, `position_ids`) and either `labels` (B, T), which
            are shifted here, as in Transformers, or `shift_labels` (B, T), which are shifted already. -100 is ignored.
        rng : np.random.Generator or None
            For dropout.
        num_items : int or None
            What the sum of the losses is divided by: the real labels of the batch if None. Those who split a batch
            pass the count of the whole, and add.
        keep : "all" or "inputs"

        Notes
        -----
        Over a large vocabulary, loss and gradient of the head are computed for some positions at a time, without the
        logits of all: `functional.linear_cross_entropy`.
        """
        inputs, labels = self._inputs_and_labels(batch)
        if self.config.vocab_size >= LARGE_VOCABULARY:
            return self._large_loss_and_grads(inputs, labels, rng, num_items, keep)
        outputs, cache = self.forward(**inputs, rng=rng, keep=keep)
        loss, loss_cache = next_token_loss(outputs.logits, **labels, num_items=num_items)
        dlogits = next_token_loss_backward(1.0, loss_cache)
        return loss, self.backward({"logits": dlogits}, cache)[1]

    def count_labels(self, batch) -> int:
        """Return how many labels of a batch are predicted."""
        return count_labels(**self._inputs_and_labels(batch)[1])

    def _inputs_and_labels(self, batch):
        """Split a batch into the arguments of the call and those of the loss."""
        owner = type(self).__name__
        inputs, labels = split_batch(owner, batch, self.arguments)
        shape, limit = np.shape(inputs["input_ids"]), self.config.vocab_size
        return inputs, {name: known_labels(owner, name, array, shape, limit) for name, array in labels.items()}

    def _large_loss_and_grads(self, inputs, labels, rng, num_items, keep):
        x, hidden = self._hidden(**inputs, rng=rng, keep=keep)  # (B, T, C)
        loss, loss_cache = linear_next_token_loss(x, self._head_weight(), **labels, num_items=num_items)
        dx, dweight = linear_next_token_loss_backward(1.0, loss_cache)
        grads = self._hidden_backward(dx, hidden)
        if not self.config.tie_word_embeddings:
            return loss, grads | {"head": {"weight": dweight}}
        used, dtable = np.unique(inputs["input_ids"]), dweight.T  # (V, C), all of whose rows the head used
        dtable[used] += grads["embedding"]["weight"][used]
        grads["embedding"]["weight"] = dtable
        return loss, grads

    def _decoding(self):
        kv_cache = [nn.KVCache() for _ in range(self.config.n_layer)]

        def step(ids):
            last = self._hidden(ids, kv_cache=kv_cache)[0][:, -1]  # (B, C): of a prompt only the last is scored
            return self.head(last, *self._lent())

        return step

    def checkpoint_arrays(self) -> dict[str, np.ndarray]:
        """Return the parameters under the names that Transformers gives them."""
        return _names(self.config).to_checkpoint(self.state_dict())

    def save_pretrained(self, folder) -> None:
        """Write `config.json` and `model.safetensors`, which Transformers opens too."""
        save_folder(folder, self.config, self.checkpoint_arrays())

    @classmethod
    def from_pretrained(cls, folder, *, dtype=np.float32) -> "GPT2LMHeadModel":
        """Open a folder with `config.json` and `model.safetensors`, from here or from Transformers."""
        config, arrays = open_folder(folder, GPT2Config)
        model = cls(config, rng=0, dtype=dtype)
        model.load_state_dict(_names(config).from_checkpoint(arrays, model.state_dict(), where=f"'{folder}'"))
        return model


def _names(config):
    tied = config.tie_word_embeddings
    rows = NAMES if tied else [*NAMES, HEAD_NAME]
    ignored = [*MASK_BUFFERS, *(["lm_head.weight"] if tied else [])]  # of a tied head some files hold a copy
    return NameTable(rows, optional_prefix="transformer.", ignored=ignored)
