"""GPT-2: a decoder-only language model, pre-norm, with learned positions and a head tied to the embedding.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from numtx import functional as F
from numtx import generation, nn
from numtx.checkpoints import TRANSPOSED, NameTable, load_arrays, read_json, save_arrays, write_json
from numtx.functional.door import count, positive, rate
from numtx.models.loss import next_token_loss, next_token_loss_backward
from numtx.models.output import CausalLMOutput

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


class GPT2LMHeadModel(nn.Module):
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
    """

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
        input_ids = np.asarray(input_ids)
        old = len(kv_cache[0]) if kv_cache else 0
        self._check(input_ids, attention_mask, old)
        positions = np.arange(old, old + input_ids.shape[1]) if position_ids is None else position_ids
        mask = None if attention_mask is None else F.padding_mask(attention_mask)
        x, embedded = self.embedding.forward(input_ids)  # (B, T, C)
        x, placed = self.positions.forward(x, positions=positions)
        x, drop = self.embedding_dropout.forward(x, rng=rng)
        x, stack = self.stack.forward(x, mask=mask, kv_cache=kv_cache, rng=rng, keep=keep)
        return x, None if stack is None else (embedded, placed, drop, stack)

    def backward(self, doutputs, cache):
        """Return (None, grads) for `doutputs`, a dict with the gradient of "logits"; absent means zero."""
        if cache is None:
            raise ValueError("GPT2LMHeadModel: backward after a forward with keep=None or a kv_cache")
        (embedded, placed, drop, stack), head, shape = cache
        dlogits = self._dlogits(doutputs, shape)
        dinputs, g_head = self.head.backward(dlogits, head)
        dx, dtable = dinputs if self.config.tie_word_embeddings else (dinputs, None)
        dx, g_stack = self.stack.backward(dx, stack)
        dx, _ = self.embedding_dropout.backward(dx, drop)
        dx, g_positions = self.positions.backward(dx, placed)
        _, g_embedding = self.embedding.backward(dx, embedded)
        if dtable is not None:
            g_embedding["weight"] += dtable  # the table was used twice
        grads = {"embedding": g_embedding, "positions": g_positions, "stack": g_stack}
        return None, grads | ({"head": g_head} if g_head else {})

    def _dlogits(self, doutputs, shape):
        """Return the gradient of the logits out of what backward was given, or refuse it."""
        given = doutputs if isinstance(doutputs, dict) else {"no dict but": doutputs}
        arrays = {name: np.asarray(array) for name, array in given.items()}
        dlogits = arrays.get("logits", np.zeros(shape, self.dtype)) if given is doutputs else None
        if dlogits is None or set(arrays) - {"logits"} or dlogits.shape != shape or dlogits.dtype != self.dtype:
            got = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
            raise ValueError(
                f'GPT2LMHeadModel: expected a dict with the gradient of "logits", {self.dtype} {shape}, got {got}'
            )
        return dlogits

    def _lent(self):
        return (self.embedding.weight,) if self.config.tie_word_embeddings else ()

    def loss(self, batch, num_items=None):
        """Return the loss alone, without dropout. The arguments are those of `loss_and_grads`."""
        inputs, labels = _inputs_and_labels(batch)
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
        """
        inputs, labels = _inputs_and_labels(batch)
        outputs, cache = self.forward(**inputs, rng=rng, keep=keep)
        loss, loss_cache = next_token_loss(outputs.logits, **labels, num_items=num_items)
        dlogits = next_token_loss_backward(1.0, loss_cache)
        return loss, self.backward({"logits": dlogits}, cache)[1]

    def stream(self, input_ids, **settings) -> Iterator[np.ndarray]:
        """Yield the next id of each row, (B,), one step at a time. The arguments are those of `generate`."""
        return generation.stream(self._decoding, input_ids, **self._options(**settings))

    def generate(self, input_ids, **settings) -> np.ndarray:
        """Write on after a prompt: ids (B, T) -> (B, T + new), the prompt included.

        Parameters
        ----------
        input_ids : (B, T) integer array
            All rows of one length, without padding. Of a prompt longer than the context only the end is read, and a
            text that grows over it slides.
        max_new_tokens : int
        do_sample, temperature, top_k, top_p
            How the next id is chosen; see `generation.Sampler`. Default: the likeliest.
        seed : int, np.random.Generator or None
            For sampling.
        eos_token_id : int, several, or None
            Where a row ends. None: that of the config; (): nowhere.

        Raises
        ------
        ValueError
            If a setting is out of range or none of these, or the ids are no integers (B, T) of the vocabulary.

        Examples
        --------
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_positions=8, n_embd=8, n_layer=1, n_head=2), rng=0)
        >>> model.generate(np.array([[1, 2, 3]]), max_new_tokens=4).shape
        (1, 7)
        """
        return generation.generate(self._decoding, input_ids, **self._options(**settings))

    def _options(self, *, max_new_tokens=20, seed=None, eos_token_id=None, **sampling):
        """Return the settings of `generate` as those of `generation.stream`."""
        known = [field.name for field in fields(generation.Sampler)]
        if unknown := sorted(set(sampling) - set(known)):
            raise ValueError(
                "GPT2LMHeadModel.generate: expected the settings max_new_tokens, seed, eos_token_id, "
                f"{', '.join(known)}, got {', '.join(unknown)}"
            )
        return {
            "max_new_tokens": max_new_tokens,
            "context": self.config.n_positions,
            "sampler": generation.Sampler(**sampling),
            "rng": np.random.default_rng(seed),
            "eos_token_id": self.config.eos_token_id if eos_token_id is None else eos_token_id,
        }

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
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", self.config.to_dict())
        save_arrays(folder / "model.safetensors", self.checkpoint_arrays())

    @classmethod
    def from_pretrained(cls, folder, *, dtype=np.float32) -> "GPT2LMHeadModel":
        """Open a folder with `config.json` and `model.safetensors`, from here or from Transformers."""
        folder = Path(folder)
        config = GPT2Config.from_dict(read_json(folder / "config.json", required=["model_type"]))
        arrays = load_arrays(folder / "model.safetensors")
        model = cls(config, rng=0, dtype=dtype)
        model.load_state_dict(_names(config).from_checkpoint(arrays, model.state_dict(), where=f"'{folder}'"))
        return model

    def _check(self, input_ids, attention_mask, old):
        if input_ids.ndim != 2 or not input_ids.size:
            raise ValueError(f"GPT2LMHeadModel: expected input_ids (B, T), not empty, got {input_ids.shape}")
        if old + input_ids.shape[1] > self.config.n_positions:
            raise ValueError(
                f"GPT2LMHeadModel: expected at most n_positions = {self.config.n_positions} tokens (the context), "
                f"got {old + input_ids.shape[1]}"
            )
        expected = (len(input_ids), old + input_ids.shape[1])
        if attention_mask is not None and np.shape(attention_mask) != expected:
            raise ValueError(
                f"GPT2LMHeadModel: expected an attention_mask (B, T) = {expected}, got {np.shape(attention_mask)}"
            )


def _names(config):
    tied = config.tie_word_embeddings
    rows = NAMES if tied else [*NAMES, HEAD_NAME]
    ignored = [*MASK_BUFFERS, *(["lm_head.weight"] if tied else [])]  # of a tied head some files hold a copy
    return NameTable(rows, optional_prefix="transformer.", ignored=ignored)


def _inputs_and_labels(batch):
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "shift_labels")}
    labels = {name: batch[name] for name in ("labels", "shift_labels") if batch.get(name) is not None}
    unknown = sorted(set(inputs) - {"input_ids", "attention_mask", "position_ids"})
    if unknown or "input_ids" not in inputs:
        raise ValueError(
            "GPT2LMHeadModel: expected a batch of input_ids, attention_mask, position_ids and labels or shift_labels, "
            f"got {', '.join(sorted(batch))}"
        )
    return inputs, labels
