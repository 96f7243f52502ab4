"""Ten steps of training each family beside Transformers' Trainer: the loss of every step, its rate and its norm, and
the weights that come of it. Runs on Transformers 4.57 and 5.

Order of data, warm-up, schedule, decay, clipping and accumulation are those of Transformers as it is installed. It is
told one thing alone, which it cannot know: whether a model divides its loss by the labels of the whole step (`counts`).
"""

import copy
import functools
import warnings

import numpy as np
import pytest

from numtx import Trainer, TrainingArguments, nn
from numtx.models import tasks
from numtx.models.loss import shift_right
from numtx.training import AdamW

pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
pytest.importorskip("accelerate", reason="Transformers' Trainer needs it: pip install 'numtx[parity]'")
import torch
import transformers
from family_parity import in_double, in_single, random_model
from small_families import FAMILIES

STEPS, ROWS, LENGTH, VOCAB, BATCH = 10, 24, 6, 11, 4
CLOSE = {np.float64: 1e-9, np.float32: 1e-5}  # relative, of losses and weights
SETTINGS = {
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    # A gradient that is nothing but rounding, such as a key bias's, Adam divides by its own size, unless eps is larger.
    "adam_epsilon": 1e-6,
    "warmup_steps": 3,
    "max_grad_norm": 0.5,
    "per_device_train_batch_size": BATCH,
    "num_train_epochs": 5,  # of six batches, in two steps: of four and of the two that are left
    "gradient_accumulation_steps": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 7,
}
ONE_BATCH_A_STEP = {"gradient_accumulation_steps": 1, "max_steps": STEPS}
SINGLE = {"adam_epsilon": 1e-3}


# --- models and data --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """`opened(family, dtype)`: the same small random model twice, without dropout: theirs and ours."""

    @functools.cache
    def folder_of(family):
        kind, config = FAMILIES[family]
        folder = tmp_path_factory.mktemp(family)
        kind(config, rng=0).save_pretrained(folder)
        settings = transformers.AutoConfig.from_pretrained(folder)
        for name, value in settings.to_dict().items():
            if "drop" in name and isinstance(value, float):
                setattr(settings, name, 0.0)
        if settings.is_encoder_decoder and settings.decoder_start_token_id is None:
            settings.decoder_start_token_id = settings.pad_token_id
        theirs = random_model(getattr(transformers, kind.__name__), settings, seed=len(family))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 4.57 tells that settings move from one file to the other
            theirs.save_pretrained(folder)
        return theirs, folder

    def both(family, dtype):
        theirs, folder = folder_of(family)
        theirs = copy.deepcopy(theirs)
        ours = FAMILIES[family][0].from_pretrained(folder, dtype=dtype)
        return theirs if dtype is np.float64 else theirs.float(), ours

    return both


def counts(family):
    """Whether Transformers divides the losses of all parts of a step by the labels of the whole.

    Its Trainer believes it of every model that takes **kwargs, but it holds for the language models of one side alone.
    Of the others it has to average the means of the parts, which is the same where all have equally many labels.
    """
    return issubclass(FAMILIES[family][0], tasks.CausalLM)


def draw_rows(family):
    """Rows of features, padded on the right, and labels: in every batch as many, unless the model counts them."""
    kind, config = FAMILIES[family]
    rng = np.random.default_rng(len(family))
    rows = ROWS - 2 if counts(family) else ROWS  # the last batch has two rows
    ids, places = rng.integers(3, VOCAB - 1, (rows, LENGTH)), np.arange(LENGTH)
    lengths = rng.integers(2, LENGTH + 1, rows)
    real = places < lengths[:, None]
    if kind.__name__ == "T5ForSequenceClassification":  # which reads at the end token
        ids[places == lengths[:, None] - 1] = config.eos_token_id
    features = {"input_ids": np.where(real, ids, config.pad_token_id or 0), "attention_mask": real.astype(int)}
    if counts(family):  # the first token is nobody's next; 4.57 counts it
        features["labels"] = np.where(real & (places > 0), ids, -100)
    elif issubclass(kind, tasks.Seq2SeqLM):
        labels = np.concatenate([rng.integers(3, VOCAB - 1, (rows, 3)), np.full((rows, 2), -100)], axis=1)
        features["labels"] = labels
        # Where labels are smoothed their models do not see them, and are given what the decoder reads.
        features["decoder_input_ids"] = shift_right(labels, config.decoder_start_token_id or 0, config.pad_token_id)
    elif issubclass(kind, tasks.TokenClassification):
        classes = VOCAB if issubclass(kind, tasks.MaskedLM) else config.num_labels
        features["labels"] = np.where(places < 2, rng.integers(0, classes, (rows, LENGTH)), -100)
    elif issubclass(kind, tasks.SequenceClassification):
        features["labels"] = rng.integers(0, config.num_labels, rows)
    else:
        features |= {name: rng.integers(0, lengths) for name in ("start_positions", "end_positions")}
    return [{name: array[i].tolist() for name, array in features.items()} for i in range(rows)]


# --- training ---------------------------------------------------------------------------------------------------------


class Asked(torch.utils.data.Dataset):
    """Rows, and the numbers of those that were asked for, in order."""

    def __init__(self, rows):
        self.rows, self.order = rows, []

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        self.order.append(i)
        return self.rows[i]


class Theirs(transformers.Trainer):
    """Their Trainer; it keeps the loss of each step, which it logs with four places."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.losses, self.left = [], 0

    def training_step(self, *args, **settings):
        loss = float(super().training_step(*args, **settings))
        if not self.left:  # the first part of a step
            self.losses.append(0.0)
            self.left = self.current_gradient_accumulation_steps
        self.losses[-1] += loss
        self.left -= 1
        return torch.tensor(loss)


class Order:
    """Says which rows are in which batch, as it is told."""

    def __init__(self, order, rows, size):
        starts = [first + i for first in range(0, len(order), rows) for i in range(0, rows, size)]
        self.batches = [order[i : min(i + size, i - i % rows + rows)] for i in starts]
        self.length = -(-rows // size)

    def __len__(self):
        return self.length

    def at(self, batch):
        return np.array(self.batches[batch])


def train_theirs(theirs, rows, folder, dtype=np.float64, *, counted, **settings):
    """Their trainer after training, and the order of rows that it drew."""
    data = Asked(rows)
    with warnings.catch_warnings(), in_double() if dtype is np.float64 else in_single():
        warnings.simplefilter("ignore")
        arguments = transformers.TrainingArguments(str(folder / "theirs"), use_cpu=True, **settings)
        trainer = Theirs(theirs, arguments, train_dataset=data)
        trainer.model_accepts_loss_kwargs = counted
        trainer.train()
    return trainer, data.order


def train_ours(ours, rows, order, folder, kind=Trainer, **settings):
    """Our trainer after training on rows in that order."""

    class Ours(kind):
        def training_order(self, dataset):
            return Order(order, len(rows), BATCH)

    trainer = Ours(ours, TrainingArguments(str(folder / "ours"), **settings), train_dataset=rows)
    trainer.train()
    return trainer


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if "learning_rate" in entry]


def compare(ours, theirs, close):
    """Losses, rates and norms of all steps, and the weights in the end."""
    losses = logged(ours, "loss")
    assert len(losses) == len(theirs.losses) == STEPS
    np.testing.assert_allclose(losses, theirs.losses, rtol=close, atol=0, err_msg="losses")
    np.testing.assert_allclose(logged(ours, "learning_rate"), logged(theirs, "learning_rate"), rtol=1e-12)
    norms = [logged(one, "grad_norm") for one in (ours, theirs)]
    np.testing.assert_allclose(*norms, rtol=10 * close, atol=0, err_msg="norms")
    compare_weights(ours.model, theirs.model, close)


def compare_weights(ours, theirs, close):
    """The weights of both, by the names of files; a tied one may stand under any of its names."""
    mine = ours.to_checkpoint(nn.unflatten(dict(ours.named_parameters())))
    names: dict[int, list[str]] = {}
    for name, parameter in theirs.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            names.setdefault(id(parameter), []).append(name)
    by_id = {id(parameter): parameter for parameter in theirs.parameters()}
    for one, aliases in names.items():
        found = [mine[name] for name in aliases if name in mine]
        assert found, f"no {aliases[0]}"
        reference = by_id[one].detach().numpy()
        error = float(np.linalg.norm(found[0] - reference) / np.linalg.norm(reference))
        assert error <= close, f"{aliases[0]}: error {error:.1e}, allowed {close:.0e}"


# --- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("family", FAMILIES)
def test_ten_steps(family, dtype, opened, tmp_path):
    theirs, ours = opened(family, dtype)
    rows, settings = draw_rows(family), SETTINGS | (SINGLE if dtype is np.float32 else {})
    expected, order = train_theirs(theirs, rows, tmp_path, dtype, counted=counts(family), **settings)
    compare(train_ours(ours, rows, order, tmp_path, **settings), expected, CLOSE[dtype])


@pytest.mark.parametrize("family", [name for name, (kind, _) in FAMILIES.items() if kind.label_names[0] == "labels"])
def test_smoothed_labels(family, opened, tmp_path):
    theirs, ours = opened(family, np.float64)
    rows, settings = draw_rows(family), SETTINGS | ONE_BATCH_A_STEP | {"label_smoothing_factor": 0.1}
    expected, order = train_theirs(theirs, rows, tmp_path, counted=counts(family), **settings)
    compare(train_ours(ours, rows, order, tmp_path, **settings), expected, CLOSE[np.float64])


SCHEDULES = {
    "linear": {"warmup_steps": 0},
    "cosine": {},
    "cosine_with_restarts": {"lr_scheduler_kwargs": {"num_cycles": 2}},
    "polynomial": {"lr_scheduler_kwargs": {"power": 2.0, "lr_end": 1e-3}},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule, opened, tmp_path):
    theirs, ours = opened("bert", np.float64)
    settings = SETTINGS | ONE_BATCH_A_STEP | SCHEDULES[schedule] | {"lr_scheduler_type": schedule}
    expected, order = train_theirs(theirs, draw_rows("bert"), tmp_path, counted=False, **settings)
    compare(train_ours(ours, draw_rows("bert"), order, tmp_path, **settings), expected, CLOSE[np.float64])


class DecaysAll(Trainer):
    def create_optimizer(self):
        args = self.args
        decays = {"weight_decay": args.weight_decay, "decay": lambda name, array: True}
        return AdamW(self.model, args.learning_rate, eps=args.adam_epsilon, **decays)


CHANGES = {
    "nothing": {},
    "no clipping": {"max_grad_norm": 0.0},
    "a longer warm-up": {"warmup_steps": 4},
    "another schedule": {"lr_scheduler_type": "constant_with_warmup"},
    "no decay": {"weight_decay": 0.0},
    "decay of norms and biases": {"kind": DecaysAll},
    "another accumulation": {"gradient_accumulation_steps": 3, "max_steps": STEPS},
    "another beta": {"adam_beta2": 0.99},
    "another eps": {"adam_epsilon": 1e-4},
    "smoothing": {"label_smoothing_factor": 0.01},
}


@pytest.fixture(scope="module")
def trained(opened, tmp_path_factory):
    """Their GPT-2 after training, and the order of its rows."""
    torch.set_default_dtype(torch.float64)  # a module's fixture is made before that of the test
    folder = tmp_path_factory.mktemp("trained")
    return train_theirs(opened("gpt2", np.float64)[0], draw_rows("gpt2"), folder, counted=True, **SETTINGS)


@pytest.mark.parametrize("change", CHANGES)
def test_a_training_that_is_not_the_same_is_seen(change, opened, trained, tmp_path):
    """With any one of the settings changed, at the coarser of the tolerances."""
    (expected, order), ours = trained, opened("gpt2", np.float64)[1]
    got = train_ours(ours, draw_rows("gpt2"), order, tmp_path, **(SETTINGS | CHANGES[change]))
    if change == "nothing":
        compare(got, expected, CLOSE[np.float64])
        return
    with pytest.raises(AssertionError):
        compare(got, expected, CLOSE[np.float32])


def test_a_mean_of_means_is_seen(opened, trained, tmp_path):
    """A step's loss is no mean over its parts, and the order of the rows matters."""
    theirs, ours = opened("gpt2", np.float64)
    means, order = train_theirs(theirs, draw_rows("gpt2"), tmp_path, counted=False, **SETTINGS)
    assert order == trained[1]
    got = train_ours(ours, draw_rows("gpt2"), order, tmp_path, **SETTINGS)
    compare(got, trained[0], CLOSE[np.float64])
    with pytest.raises(AssertionError, match="losses"):
        compare(got, means, CLOSE[np.float32])
    other = train_ours(opened("gpt2", np.float64)[1], draw_rows("gpt2"), order[::-1], tmp_path / "other", **SETTINGS)
    with pytest.raises(AssertionError, match="losses"):
        compare(other, trained[0], CLOSE[np.float32])
