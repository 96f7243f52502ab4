"""The transformer of the paper on embeddings: an encoder, and a decoder that looks at what the encoder gives.

Vaswani et al., "Attention Is All You Need" (2017), figure 1.
"""

import numpy as np

from numtx import nn
from numtx.functional.door import count, sequence
from numtx.nn import init


class Transformer(nn.Module):
    """The twin of `torch.nn.Transformer`: src (B, Ts, C), tgt (B, Tt, C) -> y (B, Tt, C).

        memory = encoder(src)        y = decoder(tgt, memory)

    Each stack ends in a LayerNorm, as there, with post-norm too. Its arguments are PyTorch's; batch comes first, and a
    mask is True where one may attend (there False).

    Parameters
    ----------
    d_model, nhead : int
        The width C, and the heads, which must divide it.
    num_encoder_layers, num_decoder_layers, dim_feedforward : int
    dropout : float
        On the attention probabilities, after the activation and after each sublayer.
    activation : "relu", "gelu", "gelu_tanh" or "silu"
    layer_norm_eps : float
    norm_first : bool
        The norm before each sublayer instead of after the residual.
    bias : bool
        Whether projections and norms have one.
    causal : bool
        Whether a place of the target never sees those after it, whatever `tgt_mask` says. As in PyTorch it is for the
        mask to say, unless this is True.

    Notes
    -----
    Matrices are drawn as in PyTorch, evenly within √(6 / (fan in + fan out)). Weights go to and from PyTorch by
    `load_torch_state_dict` and `torch_state_dict`.

    Examples
    --------
    >>> model = Transformer(8, 2, 1, 1, 16, rng=0)
    >>> src, tgt = np.ones((1, 5, 8), np.float32), np.ones((1, 3, 8), np.float32)
    >>> model(src, tgt, tgt_mask=np.tri(3, dtype=bool)).shape
    (1, 3, 8)

    Attention weights are read through a trace, from any attention of the model:

    >>> from numtx import functional as F
    >>> with nn.trace(model) as seen:
    ...     y = model(src, tgt)
    >>> site = seen["decoder.layers.0.cross_attention.sublayer/scaled_dot_product_attention"]
    >>> F.attention_weights(F.scaled_dot_product_attention(*site.inputs, **site.settings)[1]).shape
    (1, 2, 3, 5)
    """

    def __init__(
        self,
        d_model=512,
        nhead=8,
        num_encoder_layers=6,
        num_decoder_layers=6,
        dim_feedforward=2048,
        dropout=0.1,
        activation="relu",
        layer_norm_eps=1e-5,
        norm_first=False,
        bias=True,
        *,
        causal=False,
        rng=None,
        dtype=np.float32,
    ):
        count("Transformer", 1, num_encoder_layers=num_encoder_layers, num_decoder_layers=num_decoder_layers)
        rng = np.random.default_rng(rng)
        layer = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, norm_first, bias)
        self.encoder, self.decoder = (
            nn.Stack(
                [kind(*layer, causal=is_causal, rng=rng, dtype=dtype) for _ in range(layers)],
                nn.LayerNorm(d_model, layer_norm_eps, bias, dtype=dtype),
            )
            for kind, layers, is_causal in (
                (nn.TransformerEncoderLayer, num_encoder_layers, False),
                (nn.TransformerDecoderLayer, num_decoder_layers, causal),
            )
        )
        draw_matrices(self, rng)
        self.width, self.num_heads, self.causal = d_model, nhead, causal

    def __call__(self, src, tgt, src_mask=None, tgt_mask=None, memory_mask=None):
        return self.forward(src, tgt, src_mask, tgt_mask, memory_mask, keep=None)[0]

    def forward(self, src, tgt, src_mask=None, tgt_mask=None, memory_mask=None, rng=None, keep="all", frozen=()):
        """Return (y, cache).

        Parameters
        ----------
        src, tgt : (B, Ts, C) and (B, Tt, C) arrays
        src_mask, tgt_mask, memory_mask : boolean arrays or None
            True where a query (row) may attend to a key (column): in the encoder (Ts, Ts), in the decoder (Tt, Tt), and
            of the decoder in the memory (Tt, Ts); or of four axes, which broadcast to (B, H, Tq, Tk). A padded source
            needs `F.padding_mask` as `src_mask` and as `memory_mask`. A row of False gives zeros out of the attention.
        rng : np.random.Generator or None
            None means no dropout.
        keep : "all", "inputs" or None
            As in `nn.Stack`.
        frozen : names, of "src" and "tgt"
            Whose gradient nobody wants.
        """
        self._check(src=src, tgt=tgt)
        batch, source, target = len(src), src.shape[1], tgt.shape[1]
        src_mask = self._mask("src_mask", src_mask, batch, source, source)
        tgt_mask = self._mask("tgt_mask", tgt_mask, batch, target, target)
        memory_mask = self._mask("memory_mask", memory_mask, batch, target, source)
        settings = {"rng": rng, "keep": keep}
        still = nn.told(("x",) if "src" in frozen else ())
        memory, encoded = self.encoder.forward(src, mask=src_mask, **settings, **still)  # (B, Ts, C)
        names = ["x"] if "tgt" in frozen else []
        names += ["memory"] if "src" in frozen and not self.encoder.learns() else []
        masks = {"mask": tgt_mask, "memory_mask": memory_mask}
        y, decoded = self.decoder.forward(tgt, memory, **masks, **settings, **nn.told(names))
        return y, None if keep is None else (encoded, decoded)  # (B, Tt, C)

    def backward(self, dy, cache):
        """Return ((dsrc, dtgt), grads). The source is seen through the memory alone: dsrc = ∂memory/∂src · dmemory."""
        if cache is None:
            raise ValueError("Transformer: backward after a forward with keep=None, which leaves it nothing")
        encoded, decoded = cache
        (dtgt, dmemory, _), g_decoder = self.decoder.backward(dy, decoded)
        (dsrc, *_), g_encoder = ((None,), {}) if dmemory is None else self.encoder.backward(dmemory, encoded)
        return (dsrc, dtgt), {"encoder": g_encoder, "decoder": g_decoder}

    def encode(self, src, src_mask=None):
        """Return the memory (B, Ts, C)."""
        self._check(src=src)
        return self.encoder(src, mask=self._mask("src_mask", src_mask, len(src), src.shape[1], src.shape[1]))

    def decode(self, tgt, memory, tgt_mask=None, memory_mask=None, *, kv_cache=None):
        """Return y (B, Tt, C). `kv_cache`, of `new_cache`: with it tgt holds the new places alone.

        The memory is then projected at the first step only; the later ones are given the same array. Beams, opened by
        `reorder` on every layer's cache, are more rows of tgt and of `memory_mask`, and not of the memory.
        With one, `tgt_mask` is (Tt, old + Tt) or of four axes. Old places have not seen the new ones, so new ones must
        not see those after them either: where several come at once, `causal` or the mask has to say so.
        """
        if kv_cache is None:
            self._check(tgt=tgt, memory=memory)
        else:  # which know how many beams share a row of the memory
            self._check(tgt=tgt)
            self._check(memory=memory)
        batch, new = tgt.shape[:2]
        old = len(kv_cache[0]) if kv_cache else 0
        if kv_cache is not None and new > 1 and tgt_mask is None and not self.causal:
            raise ValueError(
                f"Transformer: expected causal=True or a tgt_mask for {new} places with a kv_cache, got neither"
            )
        tgt_mask = self._mask("tgt_mask", tgt_mask, batch, new, old + new)
        memory_mask = self._mask("memory_mask", memory_mask, batch, new, memory.shape[1])
        return self.decoder(tgt, memory, mask=tgt_mask, memory_mask=memory_mask, kv_cache=kv_cache)

    def new_cache(self):
        """Return what `decode` keeps between steps, empty: one `DecoderLayerCache` a layer of the decoder."""
        return self.decoder.new_cache()

    def _check(self, **arrays):
        sequence("Transformer", self.width, **arrays)
        if not all(array.size for array in arrays.values()):
            got = " and ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise ValueError(f"Transformer: expected sequences that are not empty, got {got}")

    def _mask(self, name, mask, batch, queries, keys):
        """Return a mask for so many queries and keys as four axes, or None."""
        if mask is None:
            return None
        scores = (batch, self.num_heads, queries, keys)
        dtype, shape = getattr(mask, "dtype", type(mask).__name__), np.shape(mask)
        fits = shape == scores[2:] or (len(shape) == 4 and all(m in (1, s) for m, s in zip(shape, scores, strict=True)))
        if dtype != np.bool_ or not fits:
            raise ValueError(
                f"Transformer: expected a boolean {name} {scores[2:]}, or of four axes that broadcast to {scores}, "
                f"got {dtype} {shape}"
            )
        return mask[None, None] if len(shape) == 2 else mask


def draw_matrices(module, rng):
    """Draw every matrix anew as `torch.nn.Transformer` does at the end: evenly within √(6 / (fan in + fan out))."""
    for _, array in module.named_parameters():
        if array.ndim == 2:
            array[...] = init.xavier_uniform(array.shape, rng, array.dtype)
