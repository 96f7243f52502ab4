"""A step of fine-tuning beside Transformers' model in PyTorch: same weights, same batches, in turn in one process.

    python benchmarks/finetune.py
    python benchmarks/finetune.py --runs 5 --json rows.json

A classifier of the shape of MiniLM (6 layers, width 384, 22.7 million parameters), batches of 16 texts of 14 to 60
tokens, those of like length together, dropout as it comes, AdamW. The step of numtx is the Trainer's own, from the
collated batch to the updated weights; PyTorch makes its steps between them. A frozen body is measured too. Needs
`pip install torch transformers`.
"""

import tempfile
import time

import numpy as np
from measure import Row, command, median, peak_megabytes, peak_of, peak_of_children, reset_peak

import numtx
from numtx import nn
from numtx.models import BertConfig, BertForSequenceClassification

THREADS = 2
LIMIT = 1.0  # the ratio of times that is promised
SIZES = {"vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
SIZES |= {"intermediate_size": 1536, "max_position_embeddings": 512}
BATCH, ROWS, SHORTEST, LONGEST = 16, 1024, 14, 60
TURN, TURNS = 4, 5  # steps in a row before it is the other's turn
RATE = 1e-5
GAP = 1e-4  # between the losses of two right implementations in float32, after a dozen steps without dropout
NAMES = ("finetune", "frozen body")
AGAINST = "PyTorch eager"


def classifier(dropout=0.1):
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForSequenceClassification(BertConfig(**SIZES, **rates), rng=0)


def rows():
    rng = np.random.default_rng(0)
    lengths = rng.integers(SHORTEST, LONGEST, size=ROWS)
    texts = [rng.integers(1000, SIZES["vocab_size"], size=length).tolist() for length in lengths]
    return [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids), "label": k % 2}
        for k, ids in enumerate(texts)
    ]


def collate(features):
    """Fill rows with zeros on the right to the longest."""
    longest = max(len(row["input_ids"]) for row in features)
    batch = {
        name: np.array([row[name] + [0] * (longest - len(row[name])) for row in features])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    return batch | {"labels": np.array([row["label"] for row in features])}


def trainer(folder, model, steps, callbacks=()):
    arguments = numtx.TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        group_by_length=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        shards=THREADS,
        threads=THREADS,
    )
    made = numtx.Trainer(model, arguments, collate, rows(), callbacks=list(callbacks))
    made.pop_callback(numtx.training.PrinterCallback)
    return made


def opponent(ours, frozen):
    import torch
    import transformers
    from torch_finetune import TorchFineTuning

    torch.set_num_threads(THREADS)
    config = transformers.BertConfig(**SIZES)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = ours.config.hidden_dropout_prob
    theirs = transformers.BertForSequenceClassification(config)
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in ours.to_checkpoint().items()}
    theirs.load_state_dict(arrays)
    theirs.bert.requires_grad_(not frozen)
    return TorchFineTuning(theirs, RATE)


class InTurn(numtx.TrainerCallback):
    """After some steps of numtx, let PyTorch make the same ones, and keep the times of both.

    Several steps in a row, because right after a step of PyTorch its threads still spin on the cores for a while, and
    the caches are full of its data. The first turn of each is a warm-up.
    """

    def __init__(self, frozen):
        self.frozen = frozen
        self.ours, self.theirs = [], []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.torch = opponent(model, self.frozen)
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, train_dataloader=None, **kwargs):
        done = state.global_step
        if done % TURN:
            return
        ours = time.perf_counter() - self.began
        batches = [batch for step in range(done - TURN, done) for batch in train_dataloader.at_step(step)]
        began = time.perf_counter()
        for batch in batches:
            self.torch.step(batch, RATE)
        theirs = time.perf_counter() - began
        if done > TURN:
            self.ours.append(ours / TURN)
            self.theirs.append(theirs / TURN)
        self.began = time.perf_counter()


def check(folder):
    """Require that both are the same model: the same loss of a batch after the same steps without dropout."""
    turns = InTurn(frozen=False)
    model = classifier(dropout=0.0)
    made = trainer(folder, model, 3 * TURN, [turns])
    made.train()
    import torch
    from torch_finetune import tensors

    batch = collate(rows()[:BATCH])
    with torch.inference_mode():
        theirs = float(turns.torch.model.eval()(**tensors(batch)).loss)
    gap = abs(float(model.loss(batch)) - theirs)
    print(f"{NAMES[0]}: after {3 * TURN} steps without dropout the two losses are within {gap:.1e}", flush=True)
    if not gap <= GAP:
        raise SystemExit(f"{NAMES[0]}: expected losses within {GAP} of each other, got {gap}: not the same model")


def run(runs):
    """Return the rows: time of a step of the whole model and with a frozen body, memory."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        check(folder)
        for name in NAMES:
            ratios, ours, theirs = [], [], []
            for _ in range(runs):
                model = classifier()
                if name == "frozen body":
                    nn.freeze(model, "body.*")
                turns = InTurn(frozen=name == "frozen body")
                trainer(folder, model, (TURNS + 1) * TURN, [turns]).train()
                ratios.append(median([a / b for a, b in zip(turns.ours, turns.theirs, strict=True)]))
                ours += turns.ours
                theirs += turns.theirs
            spread = (min(ratios), max(ratios))
            times = median(ours) * 1e3, median(theirs) * 1e3
            found.append(Row(name, "time", AGAINST, median(ratios), *times, "ms", LIMIT, spread))
    memory = [peak_of(__file__, "--memory", which) for which in ("ours", "theirs")]
    return [*found, Row(NAMES[0], "memory", AGAINST, memory[0] / memory[1], *memory, "MB")]


def memory_of(which):
    """Return how much a few steps raise the peak memory of this process and its children over its imports', in MB."""
    model, features = classifier(), rows()
    if which == "theirs":
        import torch_finetune  # noqa: F401
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(folder, model, 3)
        before = reset_peak()
        if which == "ours":
            made.train()
        else:
            theirs = opponent(model, frozen=False)
            for step in range(3):
                theirs.step(collate(features[step * BATCH : (step + 1) * BATCH]), RATE)
    return peak_megabytes() - before + (THREADS - 1) * peak_of_children(before)


if __name__ == "__main__":
    command(__doc__, run, memory_of)
