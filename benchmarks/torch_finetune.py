"""The opponent in fine-tuning: Transformers' BERT in PyTorch's eager mode, AdamW, the same recipe and batches.

    python benchmarks/torch_finetune.py MODEL --data train.csv --eval-data held-out.csv --steps 300 --batch 16 --lr 1e-4

does what `numtx finetune MODEL --task text-classification` does with the same options, and prints the held-out accuracy
after the last step. Needs `pip install torch transformers`.
"""

import argparse
import time

import numpy as np
import torch
import transformers

from numtx.text import AutoTokenizer, BatchOrder, Dataset, encode_labels

NOT_DECAYED = ("bias", "LayerNorm")
LONGEST = 512


class TorchFineTuning:
    """A training step: loss, gradients, clipping, AdamW without decay of biases and norms."""

    def __init__(self, model, lr, weight_decay=0.01, clip=1.0):
        self.model, self.clip = model.train(), clip
        decayed, others = [], []
        for name, parameter in model.named_parameters():
            (others if any(part in name for part in NOT_DECAYED) else decayed).append(parameter)
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr)

    def step(self, batch, lr):
        """Make a step with arrays, and return the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self.model(**tensors(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


def tensors(batch):
    """Return arrays as tensors."""
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def padded(rows):
    """Return lists of ids as a batch, filled with zeros on the right."""
    longest = max(map(len, rows))
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": np.array([[*row, *[0] * (longest - len(row))] for row in rows]), "attention_mask": mask}


def accuracy(model, rows, labels, batch=64):
    """Return the share of rows whose class is right."""
    order, right = sorted(range(len(rows)), key=lambda row: len(rows[row])), 0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            numbers = order[start : start + batch]
            logits = model(**tensors(padded([rows[k] for k in numbers]))).logits
            right += int(np.sum(logits.argmax(-1).numpy() == labels[numbers]))
    model.train()
    return right / len(rows)


def linear(step, steps, lr, warmup):
    """Return the learning rate of a step: up from 0 in `warmup` steps, then down to 0."""
    return lr * (step / max(1, warmup) if step < warmup else (steps - step) / max(1, steps - warmup))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    data, held_out = (Dataset.from_csv(path) for path in (arguments.data, arguments.eval_data))
    rows, asked = (
        tokenizer(part["text"], truncation=True, max_length=LONGEST)["input_ids"] for part in (data, held_out)
    )
    labels, names = encode_labels(data["label"])
    labels, right = np.array(labels), np.array(encode_labels(held_out["label"], names)[0])
    model = transformers.BertForSequenceClassification.from_pretrained(arguments.model, num_labels=len(names))
    training = TorchFineTuning(model, arguments.lr)
    order = BatchOrder(len(rows), arguments.batch, arguments.seed, lengths=[len(row) for row in rows])
    warmup, began = -(-arguments.steps // 10), time.perf_counter()
    for step in range(arguments.steps):
        numbers = order.at(step)
        batch = padded([rows[k] for k in numbers]) | {"labels": labels[numbers]}
        training.step(batch, linear(step, arguments.steps, arguments.lr, warmup))
    seconds, found = time.perf_counter() - began, accuracy(model, asked, right)
    print(f"seed {arguments.seed}: accuracy {found:.4f} after {arguments.steps} steps, {seconds:.0f} s")


if __name__ == "__main__":
    main()
