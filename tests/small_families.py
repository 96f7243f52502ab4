"""A small model of each family, so small that hundreds open in a second."""

from numtx import models

BERT = {
    "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6,
    "max_position_embeddings": 9,
}  # fmt: skip
GPT2 = {"vocab_size": 11, "n_positions": 9, "n_embd": 8, "n_layer": 1, "n_head": 2}
SIDES = {f"{side}_{size}": 2 for side in ("encoder", "decoder") for size in ("layers", "attention_heads")}
BART = {"vocab_size": 11, "d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 9}
T5 = {"vocab_size": 11, "d_model": 8, "d_kv": 4, "d_ff": 6, "num_layers": 1, "num_heads": 2}
FAMILIES = {
    "bert": (models.BertForSequenceClassification, models.BertConfig(**BERT)),
    "roberta": (models.RobertaForMaskedLM, models.RobertaConfig(**BERT)),
    "distilbert": (
        models.DistilBertForQuestionAnswering,
        models.DistilBertConfig(vocab_size=11, dim=8, n_layers=1, n_heads=2, hidden_dim=6, max_position_embeddings=9),
    ),
    "gpt2": (models.GPT2LMHeadModel, models.GPT2Config(**GPT2)),
    "bart": (models.BartForConditionalGeneration, models.BartConfig(**BART, **SIDES)),
    "marian": (
        models.MarianMTModel,
        models.MarianConfig(**BART, **SIDES, pad_token_id=10, decoder_start_token_id=10),
    ),
    "llama": (
        models.LlamaForCausalLM,
        models.LlamaConfig(**BERT, num_key_value_heads=1),
    ),
    **{
        f"t5 {task}": (kind, models.T5Config(**T5, decoder_start_token_id=0))
        for task, kind in (
            ("sequence", models.T5ForSequenceClassification),
            ("tokens", models.T5ForTokenClassification),
            ("spans", models.T5ForQuestionAnswering),
        )
    },
    "t5": (
        models.T5ForConditionalGeneration,
        models.T5Config(**T5),
    ),
}
