"""The settings of BART, which Marian's follow too."""

from dataclasses import dataclass
from typing import Any, ClassVar

from numtx.models.config import PretrainedConfig

SIDES = ("encoder", "decoder")


@dataclass(kw_only=True)
class BartConfig(PretrainedConfig):
    """The settings of a BART, by the names of its `config.json`.

    Attributes
    ----------
    encoder_layerdrop, decoder_layerdrop : float
        Rates at which whole layers are left out in training, which numtx does not do: with another rate than zero a
        model runs, but refuses dropout.
    classifier_dropout : float
        That of the head of a sequence classifier, before and behind its dense layer.
    scale_embedding : bool
        Whether the embeddings are multiplied by √d_model.
    init_std : float
        Of new weights; other families call it `initializer_range`.
    decoder_start_token_id : int or None
        What the decoder reads first.

    Notes
    -----
    Without `id2label` there are three classes, those of inference between sentences.

    Examples
    --------
    >>> BartConfig(d_model=8, encoder_attention_heads=2, decoder_attention_heads=2).num_labels
    3
    """

    model_type = "bart"
    required = (
        "vocab_size",
        "max_position_embeddings",
        "d_model",
        "encoder_layers",
        "encoder_attention_heads",
        "encoder_ffn_dim",
        "decoder_layers",
        "decoder_attention_heads",
        "decoder_ffn_dim",
        "activation_function",
        "scale_embedding",
    )
    sizes: ClassVar[tuple[str, ...]] = required[:-2]
    rates = (
        "dropout",
        "attention_dropout",
        "activation_dropout",
        "classifier_dropout",
        "encoder_layerdrop",
        "decoder_layerdrop",
    )
    positives = ("init_std",)
    activations = ("activation_function",)
    layers = ("encoder_layers", "decoder_layers")
    matrices = (
        ("vocab_size", "d_model"),
        ("vocabulary", "d_model"),
        ("max_position_embeddings", "d_model"),
        ("d_model", "d_model"),
        ("d_model", "encoder_ffn_dim"),
        ("d_model", "decoder_ffn_dim"),
        ("num_labels", "d_model"),
    )
    # Entries of older files that tell other architectures apart, and what they must say if they are there.
    fixed: ClassVar[dict[str, Any]] = {
        "is_encoder_decoder": True,
        "is_decoder": False,
        "tie_encoder_decoder": False,
        "normalize_before": False,
        "add_final_layer_norm": False,
        "normalize_embedding": True,
        "static_position_embeddings": False,
        "extra_pos_embeddings": 2,
    }

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4096
    encoder_layerdrop: float = 0.0
    decoder_layers: int = 12
    decoder_attention_heads: int = 16
    decoder_ffn_dim: int = 4096
    decoder_layerdrop: float = 0.0
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    classifier_dropout: float = 0.0
    scale_embedding: bool = False
    init_std: float = 0.02
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2

    def __post_init__(self):
        super().__post_init__()
        self.initializer_range = self.init_std
        name = type(self).__name__
        for side in SIDES:
            heads = getattr(self, f"{side}_attention_heads")
            if self.d_model % heads:
                raise ValueError(
                    f"{name}: expected {side}_attention_heads that divide d_model = {self.d_model}, got {heads}"
                )
        for entry, right in self.fixed.items():
            said = self.other.get(entry, right)
            if said is not None and said != right:
                raise ValueError(f"{name}: expected {entry} {right}, got {said!r}")

    @property
    def num_labels(self) -> int:
        """The classes of a classifier, or the numbers of a regression."""
        return 3 if self.id2label is None else len(self.id2label)

    @property
    def one_vocabulary(self) -> bool:
        """Whether source and target are of one vocabulary."""
        return True

    @property
    def one_table(self) -> bool:
        """Whether encoder and decoder read their embeddings from one table."""
        return self.one_vocabulary and self.tie_word_embeddings

    def to_dict(self) -> dict[str, Any]:
        """Return the entries of a `config.json` that Transformers opens."""
        entries = super().to_dict()
        del entries["initializer_range"]  # `init_std` is its name here
        return {"is_encoder_decoder": True, **entries}
