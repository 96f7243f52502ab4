"""Runs of models with LoRA: what a resume must find again, and what cannot be saved is said at first."""

import json

import numpy as np
import pytest

from numtx import LoraConfig, models, nn
from numtx.training import Trainer, TrainingArguments

IDS = np.random.default_rng(0).integers(3, 23, (8, 6))
DATA = [{"input_ids": row.tolist(), "labels": int(row[0] % 2)} for row in IDS]


def bert(rng=0):
    sizes = {"vocab_size": 23, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = models.BertConfig(**sizes, intermediate_size=12, max_position_embeddings=12)
    return models.BertForSequenceClassification(config, rng=rng, dtype=np.float64)


def ready_made():
    sizes = {"d_model": 8, "nhead": 2, "dim_feedforward": 6, "num_layers": 1}
    return models.EncoderOnlyTransformer(vocab_size=23, num_classes=2, rng=0, **sizes)


def trainer(model, folder, data=DATA, **settings):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, **settings}
    settings |= {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "report_to": "none", "disable_tqdm": True}
    return Trainer(model, TrainingArguments(output_dir=str(folder), **settings), train_dataset=data)


def adapted(rng=0, update=5):
    return bert(rng).add_adapter(LoraConfig(r=2), rng=update)


def test_an_adapter_goes_on_over_the_base_that_it_began_with(tmp_path):
    trainer(adapted(), tmp_path).train()
    other = adapted(rng=3)
    before = {name: array.copy() for name, array in other.named_parameters()}
    with pytest.raises(ValueError, match="resume: expected the base that the adapter began with, got other weights"):
        trainer(other, tmp_path).train(resume_from_checkpoint=True)
    assert all(np.array_equal(array, before[name]) for name, array in other.named_parameters())


def test_what_belongs_to_the_adapter_is_the_checkpoints_frozen_or_not(tmp_path):
    first, other = adapted(), adapted(update=9)
    for model in (first, other):
        nn.freeze(model, "*.lora_A")
    trainer(first, tmp_path).train()
    trainer(other, tmp_path).train(resume_from_checkpoint=True)
    for name, array in first.named_parameters():
        np.testing.assert_array_equal(other.get_parameter(name), array, err_msg=name)


def test_a_run_that_does_not_say_its_base_goes_on(tmp_path):
    """As one that was begun before it was kept."""
    trainer(adapted(), tmp_path).train()
    settings = json.loads((tmp_path / "training.json").read_text())
    assert settings.pop("base")
    (tmp_path / "training.json").write_text(json.dumps(settings))
    trainer(adapted(rng=3), tmp_path).train(resume_from_checkpoint=True)


def plain_lora():
    return nn.add_lora(bert(), r=2, modules_to_save=["head"], rng=0)


def ready_made_lora():
    return nn.add_lora(ready_made(), r=2, modules_to_save=["head"], rng=0)


def removed():
    return nn.remove_lora(adapted())


def norms_too():
    model = adapted()
    nn.unfreeze(model, "*norm*")
    return model


UNSAVABLE = {
    "add_lora": (plain_lora, "BertForSequenceClassification: expected LoRA from add_adapter, which is saved"),
    "ready-made": (ready_made_lora, "EncoderOnlyTransformer: expected no LoRA in what is saved"),
    "remove_lora": (removed, "BertForSequenceClassification: expected the updates of its adapter, got none"),
    "norms": (norms_too, "expected only the adapter to be trained, got .*norm"),
}


@pytest.mark.parametrize("what", UNSAVABLE)
def test_what_cannot_be_saved_is_said_before_the_first_step(what, tmp_path):
    make, said = UNSAVABLE[what]
    model = make()
    before = {name: array.copy() for name, array in model.named_parameters()}
    run = trainer(model, tmp_path / "run", max_steps=8, save_steps=8)
    for ask in (run.check, run.train, lambda: model.save_pretrained(tmp_path / "model")):
        with pytest.raises(ValueError, match=said) as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert all(np.array_equal(array, before[name]) for name, array in model.named_parameters())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [plain_lora, ready_made_lora, norms_too])
def test_where_nothing_is_saved_it_is_trained(make, tmp_path):
    model = make()
    before = {name: array.copy() for name, array in model.named_parameters()}
    trainer(model, tmp_path, save_strategy="no").train()
    assert any(not np.array_equal(array, before[name]) for name, array in model.named_parameters() if "lora_B" in name)
