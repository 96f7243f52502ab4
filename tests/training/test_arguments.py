"""TrainingArguments: Transformers' names and meanings, and one line for what is wrong."""

import json
import math

import pytest

from numtx.training import Seq2SeqTrainingArguments, TrainingArguments
from numtx.training.foreign_arguments import REFUSED, WITHOUT_EFFECT


def test_other_spellings_mean_the_same():
    assert TrainingArguments(evaluation_strategy="epoch").eval_strategy == "epoch"
    assert TrainingArguments(train_sampling_strategy="group_by_length").group_by_length
    assert not TrainingArguments(train_sampling_strategy="random").group_by_length
    assert TrainingArguments(include_inputs_for_metrics=True).include_for_metrics == ["inputs"]
    assert TrainingArguments(activation_checkpointing=True).gradient_checkpointing
    assert TrainingArguments(warmup_steps=0.1).get_warmup_steps(50) == 5
    assert TrainingArguments(max_grad_norm=None).max_grad_norm == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"evaluation_strategy": "no", "eval_strategy": "no"}, "expected eval_strategy once"),
        ({"train_sampling_strategy": "sequential"}, "expected train_sampling_strategy random or group_by_length"),
        ({"warmup_rate": 0.1}, "got 'warmup_rate'; the nearest is 'warmup_ratio'"),
        ({"nonsense": 1}, "expected an argument that it has, got 'nonsense'"),
        ({"fp16": True}, "expected fp16 at its default False, got True: numtx computes in float32 or float64"),
        ({"deepspeed": "zero3.json"}, "expected deepspeed at its default None"),
        ({"push_to_hub": True}, "expected push_to_hub at its default"),
        ({"ignore_data_skip": True}, "expected ignore_data_skip at its default"),
        ({"eval_strategy": "sometimes"}, "expected eval_strategy no or steps or epoch, got 'sometimes'"),
        ({"save_strategy": "best"}, "expected an eval_strategy with save_strategy 'best', got 'no'"),
        ({"logging_steps": 0}, "expected logging_steps above 0"),
        ({"logging_steps": 1.5}, "expected logging_steps to be whole from 1 on, got 1.5"),
        ({"eval_strategy": "steps", "eval_steps": -1}, "expected eval_steps above 0"),
        ({"per_device_train_batch_size": 0}, "expected per_device_train_batch_size to be an integer of at least 1"),
        ({"gradient_accumulation_steps": 1.0}, "expected gradient_accumulation_steps to be an integer"),
        ({"save_total_limit": 0}, "expected save_total_limit to be an integer of at least 1, got 0"),
        ({"learning_rate": float("nan")}, "expected learning_rate to be a number of at least 0, got nan"),
        ({"adam_beta1": 1.0}, "expected adam_beta1 in [0, 1), got 1.0"),
        ({"label_smoothing_factor": 1.5}, "expected label_smoothing_factor in [0, 1], got 1.5"),
        ({"num_train_epochs": 0}, "expected num_train_epochs above 0, got 0"),
        ({"max_steps": 2.5}, "expected max_steps to be an integer, got 2.5"),
        ({"seed": -1}, "expected seed to be an integer of at least 0, got -1"),
        ({"lr_scheduler_type": "cosinus"}, "got 'cosinus'; the nearest is 'cosine'"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "which follows evaluations"),
        ({"lr_scheduler_kwargs": {"power": 2}}, "expected no settings for 'linear', got power"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "expected the setting num_decay_steps"),
        ({"lr_scheduler_kwargs": "{"}, "expected lr_scheduler_kwargs in JSON"),
        ({"load_best_model_at_end": True}, "expected save_strategy and eval_strategy to be the same"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 4, "save_steps": 6},
            "expected save_steps to be a multiple of eval_steps with load_best_model_at_end, got 6 and 4",
        ),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.2, "save_steps": 0.5},
            "expected save_steps to be a multiple of eval_steps",
        ),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, "expected an eval_strategy with load_best_model"),
        ({"report_to": "wandb"}, "expected report_to of tensorboard, none or all, got 'wandb'"),
        ({"include_for_metrics": ["outputs"]}, "expected include_for_metrics of inputs and loss"),
        ({"learning_rate_groups": {"head.*": -1}}, "expected learning_rate_groups"),
        ({"disable_tqdm": 1, "overwrite_output_dir": "yes"}, "expected overwrite_output_dir to be True or False"),
        ({"optim": "adafactor"}, "expected optim adamw_torch or"),
        (
            {"predict_with_generate": True, "generation_config": {"num_beams": 2}},
            "expected generation_config, a GenerationConfig or the path of one, got {'num_beams': 2}",
        ),
        ({"metric_for_best_model": 3}, "expected metric_for_best_model, a name, got 3"),
        ({"label_names": "labels"}, "expected label_names, a list of names, got 'labels'"),
        ({"report_to": 3}, "expected report_to, a name or a list of them, got 3"),
        ({"resume_from_checkpoint": 3}, "expected resume_from_checkpoint, a path, True or False, got 3"),
        ({"shards": 0}, "expected shards to be an integer of at least 1, got 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line(given, said):
    with pytest.raises(ValueError, match=r"^TrainingArguments: ") as error:
        TrainingArguments("run", **given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_belongs_to_other_machines_is_taken_at_its_default():
    for name, (defaults, why) in REFUSED.items():
        for default in defaults:
            TrainingArguments("run", **{name: default})
        if why:
            with pytest.raises(ValueError, match=f"expected {name} at its default"):
                TrainingArguments("run", **{name: "something else"})
    TrainingArguments("run", **dict.fromkeys(WITHOUT_EFFECT, 7))


def test_shares_of_all_steps():
    args = TrainingArguments(logging_steps=0.25, save_steps=3, eval_strategy="steps", eval_steps=0.3)
    assert (args.interval("logging", 10), args.interval("save", 10), args.interval("eval", 10)) == (3, 3, 3)
    assert args.interval("eval", 7) == math.ceil(2.1)
    assert TrainingArguments().interval("eval", 10) is None
    assert TrainingArguments(eval_strategy="steps", logging_steps=7).eval_steps == 7
    assert TrainingArguments(
        eval_strategy="steps", eval_steps=0.1, save_steps=0.3, load_best_model_at_end=True
    ).load_best_model_at_end  # 0.3 % 0.1 is not 0 in floats


def test_what_decides_the_best():
    best = TrainingArguments(eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    assert (best.metric_for_best_model, best.greater_is_better, best.do_eval) == ("loss", False, True)
    named = TrainingArguments(metric_for_best_model="f1")
    assert named.greater_is_better
    assert not TrainingArguments(metric_for_best_model="eval_loss").greater_is_better
    assert TrainingArguments(save_strategy="best", eval_strategy="epoch").metric_for_best_model == "loss"


def test_to_dict_is_json_and_changed_says_what_was_set(tmp_path):
    args = TrainingArguments(tmp_path, lr_scheduler_type="polynomial", lr_scheduler_kwargs='{"power": 2.0}', seed=1)
    assert json.loads(args.to_json_string())["lr_scheduler_kwargs"] == {"power": 2.0}
    assert args.changed().keys() == {"output_dir", "logging_dir", "lr_scheduler_type", "lr_scheduler_kwargs", "seed"}
    assert Seq2SeqTrainingArguments(tmp_path, predict_with_generate=True).predict_with_generate
    with pytest.raises(ValueError, match="the nearest is 'predict_with_generate'"):
        Seq2SeqTrainingArguments(tmp_path, predict_wit=True)
