"""Folders with a small drawn model and a real tokenizer, and rows to fine-tune them on."""

import shutil
from pathlib import Path

from numtx import models

TOKENIZERS = Path(__file__).parent / "golden/tokenizers"
BERT = {
    "vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {"vocab_size": 500, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
T5 = {"vocab_size": 320, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
KINDS = {
    "bert": (models.BertModel, lambda: models.BertConfig(**BERT), "bert_json"),
    "masked": (models.BertForMaskedLM, lambda: models.BertConfig(**BERT), "bert_json"),
    "gpt2": (models.GPT2LMHeadModel, lambda: models.GPT2Config(**GPT2, bos_token_id=5, eos_token_id=5), "gpt2"),
    "t5": (
        models.T5ForConditionalGeneration,
        lambda: models.T5Config(**T5, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1),
        "t5",
    ),
}
# The model that each task starts from, and rows of which a rule can be learned.
TASKS = {
    "text-classification": "bert",
    "regression": "bert",
    "token-classification": "bert",
    "question-answering": "bert",
    "summarization": "t5",
    "translation": "t5",
    "language-modeling": "gpt2",
    "fill-mask": "masked",
}
WORDS = ("red", "green", "house", "tree", "water", "stone", "good", "bad")


def write_model(folder: Path, kind: str) -> Path:
    """Write a model of a kind with its tokenizer into a folder, and return it."""
    cls, config, tokenizer = KINDS[kind]
    cls(config(), rng=0).save_pretrained(folder)
    for path in (TOKENIZERS / tokenizer).iterdir():
        if path.name != "config.json":
            shutil.copy(path, folder)
    return folder


def rows_of(task: str, number: int = 24) -> list[dict]:
    """Return rows of a task, all different: good and bad texts by turns."""
    rows = []
    for k in range(number):
        first, second, mood = WORDS[k % 6], WORDS[(k // 6) % 6], ("good", "bad")[k % 2]
        text = f"the {first} {second} is {mood}"
        words = text.split()
        rows.append(
            {
                "text-classification": {"text": text, "label": mood},
                "regression": {"text": text, "label": 1.5 if mood == "good" else -0.5},
                "token-classification": {
                    "tokens": words,
                    "ner_tags": ["B-MOOD" if word == mood else "O" for word in words],
                },
                "question-answering": {
                    "question": "how is it?",
                    "context": text,
                    "answers": {"text": [mood], "answer_start": [text.index(mood)]},
                },
                "summarization": {"document": f"{text} and the {second} is far", "summary": mood},
                "translation": {"source": text, "target": " ".join(reversed(words))},
                "language-modeling": {"text": text},
                "fill-mask": {"text": text},
            }[task]
        )
    return rows
