"""A BART that begins with the weights of a BERT: its encoder is that BERT, its decoder is made of the same layers.

Rothe, Narayan and Severyn, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks" (2020). Both families
add learned positions to the words, take the norm of it, and have post-norm layers with GELU, so the encoder computes
the very same. Nothing pretrained looks from the decoder into the encoder: that attention begins as a copy of the
decoder's own, and has to be learned.
"""

from numtx.models.bart import BartForConditionalGeneration
from numtx.models.bart_body import POSITION_OFFSET
from numtx.models.bart_config import BartConfig


def bart_of(bert, tokenizer, decoder_layers, *, dropout=0.1, rng=0):
    """Return a BartForConditionalGeneration of a BertModel and its tokenizer.

    Parameters
    ----------
    bert : BertModel
    tokenizer : PretrainedTokenizer
        Of its special tokens the decoder starts with [CLS] and ends with [SEP].
    decoder_layers : sequence of int
        Which layers of the BERT those of the decoder begin with.
    """
    config = bert.config
    sizes = {}
    for side, layers in (("encoder", config.num_hidden_layers), ("decoder", len(decoder_layers))):
        sizes |= {f"{side}_layers": layers, f"{side}_attention_heads": config.num_attention_heads}
        sizes |= {f"{side}_ffn_dim": config.intermediate_size}
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=config.vocab_size,
            d_model=config.hidden_size,
            max_position_embeddings=config.max_position_embeddings,
            activation_function=config.hidden_act,
            dropout=dropout,
            attention_dropout=dropout,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            decoder_start_token_id=tokenizer.cls_token_id,
            **sizes,
        ),
        rng=rng,
    )
    ours, theirs = dict(model.named_parameters()), dict(bert.named_parameters())

    ours["body.embedding.weight"][:] = theirs["embeddings.words.weight"]
    for side in ("encoder", "decoder"):
        positions = ours[f"body.{side}_inputs.positions.weight"]
        # Every token of a single text has type 0.
        positions[POSITION_OFFSET:] = theirs["embeddings.positions.weight"] + theirs["embeddings.types.weight"][0]
        for part in ("weight", "bias"):
            ours[f"body.{side}_inputs.norm.{part}"][:] = theirs[f"embeddings.norm.{part}"]
    for side, layers in (("encoder", range(config.num_hidden_layers)), ("decoder", decoder_layers)):
        for place, layer in enumerate(layers):
            of_bert = f"stack.layers.{layer}."
            for name, array in theirs.items():
                if name.startswith(of_bert):
                    part = name.removeprefix(of_bert)
                    ours[f"body.{side}.layers.{place}.{part}"][:] = array
                    if side == "decoder" and part.startswith("attention."):
                        ours[f"body.decoder.layers.{place}.cross_{part}"][:] = array
    return model
