"""Write the golden files of the families: small random models of Transformers, and what they compute, in float64.

python tests/golden/make_golden_families.py [NAME ...]
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from family_parity import (  # noqa: E402 - it stands one folder higher
    NOT_OURS,
    draw_batch,
    draw_directions,
    gradients_of_theirs,
    in_double,
    random_model,
    run_theirs,
    with_labels,
)

GRADIENTS = 6  # of a file's weights, so that it stays small
BERT = {
    "vocab_size": 11, "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 5,
    "max_position_embeddings": 9,
}  # fmt: skip
DISTILBERT = {"vocab_size": 11, "dim": 6, "n_layers": 1, "n_heads": 2, "hidden_dim": 5, "max_position_embeddings": 9}
BART = {
    "vocab_size": 11, "max_position_embeddings": 9, "d_model": 4, "encoder_layers": 1, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 5, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 5,
}  # fmt: skip
MARIAN = BART | {
    "pad_token_id": 10, "decoder_start_token_id": 10, "scale_embedding": True, "activation_function": "swish",
}  # fmt: skip

T5 = {
    "vocab_size": 11, "d_model": 5, "d_kv": 3, "d_ff": 4, "num_layers": 1, "num_heads": 2,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6, "decoder_start_token_id": 0,
}  # fmt: skip
LLAMA = {
    "vocab_size": 11, "hidden_size": 6, "intermediate_size": 5, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 9, "pad_token_id": 0, "rope_theta": 50.0,
    "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}  # fmt: skip


def encoder_batch(name, vocab_size, pad=0):
    """Padding on both sides, and the labels that the head at the end of a class's name is trained on."""
    batch = draw_batch(vocab_size, padding="both", pad=pad)
    head = name[name.index("For") :] if "For" in name else ""
    return with_labels(head, batch, vocab_size, classes=2)


def seq2seq_batch(name, vocab_size, pad=1):
    """A source that is padded on both sides, and a target of another length, or the class of a sequence."""
    batch = draw_batch(vocab_size - 1, padding="both", pad=pad, first=3)
    if name.endswith("SequenceClassification"):
        batch["input_ids"][:, 4] = 2  # an end token in each row
        return batch | {"labels": np.array([2, 0, 1])}
    return batch | {"labels": np.array([[3, 5, 2, -100], [4, 9, 3, 2], [-100, 6, 7, 2]])}


def two_ends_batch(name, vocab_size):
    """Two end tokens in each source, of which the last one counts."""
    batch = seq2seq_batch(name, vocab_size, pad=0)
    batch["input_ids"][:, 3] = 2
    return batch


def masked_target_batch(name, vocab_size):
    """Padding in source and target, and what the decoder reads, or labels that say it."""
    batch = draw_batch(vocab_size, padding="both")
    target = draw_batch(vocab_size, shape=(3, 4), seed=4)["input_ids"]
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
    asked = {"labels": np.where(mask == 1, target, -100)} if "For" in name else {"decoder_input_ids": target}
    return batch | {"decoder_attention_mask": mask} | asked


def writing_batch(name, vocab_size):
    """Padding on both sides; nothing is asked of padding, nor what follows it."""
    batch = draw_batch(vocab_size, padding="both", first=1)
    mask = batch["attention_mask"]
    before = np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    return batch | {"labels": np.where((mask == 1) & (before == 1), batch["input_ids"], -100)}


# The class of Transformers and of numtx -> its config, and a batch.
FAMILIES = {
    "BertModel": (transformers.BertConfig, BERT | {"num_hidden_layers": 2}, encoder_batch),
    "BertForMaskedLM": (transformers.BertConfig, BERT | {"hidden_act": "gelu_new"}, encoder_batch),
    "BertForSequenceClassification": (transformers.BertConfig, BERT, encoder_batch),
    "DistilBertForMaskedLM": (transformers.DistilBertConfig, DISTILBERT, encoder_batch),
    "RobertaForMaskedLM": (
        transformers.RobertaConfig,
        BERT | {"type_vocab_size": 1},
        lambda name, vocab_size: encoder_batch(name, vocab_size, pad=1),
    ),
    "BartForConditionalGeneration": (transformers.BartConfig, BART, seq2seq_batch),
    "BartForSequenceClassification": (transformers.BartConfig, BART | {"scale_embedding": True}, seq2seq_batch),
    "MarianMTModel": (
        transformers.MarianConfig,
        MARIAN,
        lambda name, vocab_size: seq2seq_batch(name, vocab_size, pad=10),
    ),
    "T5Model": (transformers.T5Config, T5 | {"feed_forward_proj": "gated-gelu"}, masked_target_batch),
    "T5ForConditionalGeneration": (transformers.T5Config, T5 | {"num_decoder_layers": 2}, masked_target_batch),
    "T5ForSequenceClassification": (
        transformers.T5Config,
        T5 | {"num_labels": 3, "eos_token_id": 2},
        two_ends_batch,
    ),
    "T5ForTokenClassification": (transformers.T5Config, T5, encoder_batch),
    "T5ForQuestionAnswering": (transformers.T5Config, T5, encoder_batch),
    "LlamaForCausalLM": (transformers.LlamaConfig, LLAMA, writing_batch),
}


def write(name):
    """One file: the model's own files, the batch, all outputs, the loss, and some gradients."""
    config_class, settings, batch_of = FAMILIES[name]
    with in_double():  # frequencies of rotary positions are made here
        theirs = random_model(getattr(transformers, name), config_class(**settings))
    batch = batch_of(name, settings["vocab_size"])
    folder = HERE / "families" / "written"
    theirs.save_pretrained(folder)
    arrays = {
        f"weight/{key}": array.astype(np.float32) for key, array in load_file(folder / "model.safetensors").items()
    }
    config = json.loads((folder / "config.json").read_text())
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    arrays |= {f"batch/{key}": array for key, array in batch.items()}
    with torch.no_grad():
        outputs = run_theirs(theirs, batch, output_hidden_states=True, output_attentions=True)
    for field in outputs:
        if field in NOT_OURS:
            continue
        value = outputs[field]
        parts = {f"/{i}": one for i, one in enumerate(value)} if isinstance(value, tuple) else {"": value}
        arrays |= {f"output/{field}{end}": np.array(one.detach().numpy()) for end, one in parts.items()}
    directions = draw_directions(theirs, batch)
    arrays |= {f"direction/{field}": array for field, array in (directions or {}).items()}
    value, gradients = gradients_of_theirs(theirs, batch, directions)
    arrays["value"] = np.array(value)
    there = {names: gradient for names, gradient in gradients.items() if gradient is not None}
    chosen = {0, *np.random.default_rng(0).permutation(len(there))[: GRADIENTS - 1]}  # 0: the table, which may be tied
    arrays |= {f"gradient/{names[0]}": gradient for i, (names, gradient) in enumerate(there.items()) if i in chosen}
    largest = max(float(np.linalg.norm(gradient)) for gradient in there.values())
    metadata = {
        "class": name, "config": json.dumps(config), "largest": repr(largest),
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }  # fmt: skip
    save_file(
        {key: np.array(array, order="C") for key, array in arrays.items()},
        HERE / "families" / f"{name}.safetensors",
        metadata,
    )


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    (HERE / "families").mkdir(exist_ok=True)
    for family in sys.argv[1:] or FAMILIES:
        write(family)
