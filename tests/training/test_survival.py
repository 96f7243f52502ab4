"""A Trainer's run, killed, stopped, or out of disk, goes on to the bits of the run that was never interrupted.

NUMTX_KILLS says how many kills there are (2).
"""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import trainer_program
from killing import killed, saved

from numtx import LoraConfig, TrainerCallback, nn
from numtx.checkpoints import load_arrays, write_manifest
from numtx.training import NonFiniteError

PROGRAM = Path(trainer_program.__file__)
KILLS = int(os.environ.get("NUMTX_KILLS", "2"))
STEPS = trainer_program.STEPS
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")


@pytest.fixture
def start():
    """Start the program as a process: start(out) -> Popen. None outlives its test."""
    with ExitStack() as running:

        def run(out, **settings):
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            command = [sys.executable, "-W", "error", str(PROGRAM), str(out)]
            ran = running.enter_context(subprocess.Popen(command, text=True, **pipes, **settings))
            running.callback(ran.kill)
            return ran

        yield run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted. Only to be read."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    subprocess.run([sys.executable, "-W", "error", str(PROGRAM), str(out)], check=True, stdout=subprocess.DEVNULL)
    return out


def timeless(row):
    return {name: value for name, value in row.items() if "runtime" not in name and "per_second" not in name}


def everything(out, step=STEPS):
    """What a run leaves, without its times."""
    newest = out / f"checkpoint-{step}"
    state = json.loads((newest / "trainer_state.json").read_text())
    state.pop("seconds")
    state["since"].pop("seconds")
    state["state"]["log_history"] = [timeless(row) for row in state["state"]["log_history"]]
    log = [timeless(json.loads(line)) for line in (out / "log.jsonl").read_text().splitlines()]
    files = ["model.safetensors", "optimizer.safetensors", "config.json"]
    bits = {name: (newest / name).read_bytes() for name in files}
    kept = sorted(path.name for path in out.glob("checkpoint-*"))
    finals = (out / "final/model.safetensors").read_bytes() if (out / "final").exists() else None
    return {"state": state, "log": log, "kept": kept, "final": finals, **bits}


def same_end(out, whole):
    one, other = everything(out), everything(whole)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value == other[name], name


def begun(ran, out, checkpoint=False):
    """Wait until a run trains."""
    for line in ran.stdout:
        if line == "begun\n":
            break
    while checkpoint and ran.poll() is None and saved(out) < 0:
        time.sleep(0.001)


@needs_signals
def test_a_killed_run_goes_on_to_the_same_bits(start, whole, tmp_path):
    """The evaluations, the best weights, the patience of early stopping and the middle of an epoch included."""
    rows = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    (seconds,) = [row["train_runtime"] for row in rows if "train_runtime" in row]
    moments, kills, runs = random.Random(KILLS), [], 0
    while len(kills) < KILLS:
        runs += 1
        assert runs <= 2 * KILLS, "too many runs ended before they were killed"
        out = tmp_path / f"run{runs}"
        while saved(out) < STEPS:
            ran = start(out, start_new_session=True)
            if len(kills) < KILLS:
                begun(ran, out, checkpoint=True)
                left = 1 - max(0, saved(out)) / STEPS
                step = killed(ran, out, moments.uniform(0, 0.6) * left * seconds, STEPS)
                kills += [step] if step >= 0 else []
            else:
                _, err = ran.communicate(timeout=120)
                assert (ran.returncode, err) == (0, "")
                assert [path.name for path in out.rglob(".*")] == [], "half-written files of those that were killed"
        if not (out / "final/model.safetensors").exists():  # killed behind its last checkpoint
            ran = start(out)
            assert ran.communicate(timeout=120)[1] == ""
        same_end(out, whole)
    assert len(kills) == KILLS


@needs_signals
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_a_signal_saves_and_the_run_goes_on_to_the_same_bits(start, whole, tmp_path, number, code):
    out = tmp_path / "run"
    ran = start(out)
    begun(ran, out)
    ran.send_signal(number)
    _, err = ran.communicate(timeout=60)
    assert ran.returncode == code
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
    assert not (out / "final").exists()
    assert 0 <= saved(out) < STEPS
    ran = start(out)
    assert (ran.communicate(timeout=120)[1], ran.returncode) == ("", 0)
    same_end(out, whole)


class At(TrainerCallback):
    """Calls something after a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act(kwargs)


def short(out, *callbacks, **settings):
    return trainer_program.trainer(out, callbacks, **({"max_steps": 8, "threads": 1} | settings))


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """Eight steps, never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "brief"
    short(out).train()
    return out


def numbers(out):
    found = everything(out, 8)
    for row in (*found["log"], *found["state"]["state"]["log_history"]):
        row.pop("train_loss", None)
    return found


@needs_signals
@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_signals_in_the_same_process(brief, tmp_path, signals):
    """In the middle of an epoch and between two saves; handlers are those from before."""

    def send(_):
        for number in signals:
            signal.raise_signal(number)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    expected = SystemExit if signals == [signal.SIGTERM] else KeyboardInterrupt
    with pytest.raises(expected) as left:
        short(tmp_path / "run", At(5, send)).train()
    assert expected is not SystemExit or left.value.code == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert saved(tmp_path / "run") == (5 if len(signals) == 1 else 4)
    short(tmp_path / "run").train(resume_from_checkpoint=True)
    assert numbers(tmp_path / "run") | {"kept": 0} == numbers(brief) | {"kept": 0}


@needs_signals
def test_a_program_s_own_handler_is_told_after_the_save(tmp_path):
    told = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(saved(tmp_path / "run")))
    try:
        short(tmp_path / "run", At(3, lambda _: signal.raise_signal(signal.SIGTERM))).train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == [3]


def damaged(out):
    content = bytearray((out / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (out / "model.safetensors").write_bytes(content)


def test_a_damaged_newest_checkpoint_is_passed_over(brief, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(brief, out)
    kept = sorted((int(path.name[11:]) for path in out.glob("checkpoint-*")), reverse=True)
    damaged(out / f"checkpoint-{kept[0]}")
    said = rf"passed over checkpoint-{kept[0]} \(.*another content of model.safetensors.*checkpoint-{kept[1]}'"
    with pytest.warns(UserWarning, match=said):
        short(out).train(resume_from_checkpoint=True)
    assert numbers(out) == numbers(brief)
    damaged(out / "checkpoint-8")
    with pytest.raises(ValueError, match=r"another content of model\.safetensors"):
        short(out).train(resume_from_checkpoint=out / "checkpoint-8")
    for path in out.glob("checkpoint-*"):
        (path / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="expected a whole checkpoint"):
        short(out).train(resume_from_checkpoint=True)


def test_a_chosen_checkpoint_goes_on_and_newer_ones_go(tmp_path):
    out = tmp_path / "run"
    short(out, save_total_limit=None).train()
    whole = numbers(out)
    assert whole["kept"] == [f"checkpoint-{step}" for step in (2, 4, 6, 8)]
    short(out, save_total_limit=None).train(resume_from_checkpoint=out / "checkpoint-4")
    assert numbers(out) == whole


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_leaves_the_last_good_state(brief, tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    def fill(_):
        monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(ValueError, match=os.strerror(number)):
        short(tmp_path / "run", At(5, fill)).train()
    monkeypatch.undo()
    assert saved(tmp_path / "run") == 4
    assert not list((tmp_path / "run").rglob(".*"))
    short(tmp_path / "run").train(resume_from_checkpoint=True)
    assert numbers(tmp_path / "run") | {"kept": 0} == numbers(brief) | {"kept": 0}


def test_a_folder_that_cannot_be_written_is_one_line_before_the_first_step(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(ValueError, match=r"^[^\n]*RunFolder: expected to save [^\n]*Read-only[^\n]*nothing was saved"):
        short(tmp_path / "run", At(1, lambda _: pytest.fail("a step was made"))).train()


def test_not_finite_names_the_component_and_the_last_save_stays(tmp_path):
    def poison(given):
        array = dict(given["model"].named_parameters())["body.embeddings.words.weight"]
        array[...] = np.nan

    with pytest.raises(NonFiniteError, match=r"parameter body\.embeddings\.words\.weight.*checkpoint-4'"):
        short(tmp_path / "run", At(4, lambda given: None), At(5, poison)).train()
    assert saved(tmp_path / "run") == 4
    kept = load_arrays(tmp_path / "run/checkpoint-4/model.safetensors")
    assert all(np.isfinite(array).all() for array in kept.values())


def frozen(model):
    nn.freeze(model.body)
    return model


def adapted(model):
    return model.add_adapter(LoraConfig(r=2, lora_dropout=0.1, target_modules=["query", "value"]), rng=4) or model


@pytest.mark.parametrize("change", [frozen, adapted])
def test_a_frozen_body_and_an_adapter_go_on_to_the_same_bits(tmp_path, change):
    def made(name, *callbacks):
        trainer = short(tmp_path / name, *callbacks)
        change(trainer.model)
        return trainer

    whole = made("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        made("run", At(5, lambda _: signal.raise_signal(signal.SIGINT))).train()
    resumed = made("run")
    resumed.train(resume_from_checkpoint=True)
    for name, array in whole.model.named_parameters():
        np.testing.assert_array_equal(resumed.model.get_parameter(name), array, err_msg=name)
    newest = [path / "checkpoint-8" for path in (tmp_path / "whole", tmp_path / "run")]
    for path in newest[0].glob("*.safetensors"):
        assert path.read_bytes() == (newest[1] / path.name).read_bytes()
    adapter = (newest[0] / "adapter_model.safetensors").exists()
    assert adapter == (change is adapted)
    assert (newest[0] / "model.safetensors").exists() == (not adapter)


def test_another_model_or_other_settings_are_refused(brief, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(brief, out)
    cases = [({"learning_rate": 1e-3}, "learning_rate 0.001 .began with 0.003"), ({"max_steps": 9}, "max_steps 9")]
    for settings, said in cases:
        with pytest.raises(ValueError, match=said):
            short(out, **settings).train(resume_from_checkpoint=True)
    other = short(out)
    other.model.config.layer_norm_eps = 1e-3
    with pytest.raises(ValueError, match=r"layer_norm_eps 0\.001"):
        other.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="expected resume_from_checkpoint, a checkpoint of the run in"):
        short(out).train(resume_from_checkpoint=brief / "checkpoint-8")
    with pytest.raises(ValueError, match="expected an output_dir without a run"):
        short(out).train()
    short(out, overwrite_output_dir=True).train()
    assert numbers(out) == numbers(brief)


def test_weights_of_another_shape_are_refused_even_where_the_manifest_fits(brief, tmp_path):
    from numtx.checkpoints import save_arrays

    out = tmp_path / "run"
    shutil.copytree(brief, out)
    arrays = load_arrays(out / "checkpoint-8/model.safetensors")
    first = next(iter(arrays))
    save_arrays(out / "checkpoint-8/model.safetensors", arrays | {first: arrays[first][:1]})
    write_manifest(out / "checkpoint-8")
    with pytest.raises(ValueError, match="expected"):
        short(out).train(resume_from_checkpoint=True)


def test_the_best_checkpoint_stays(tmp_path):
    """Where the best is old, it counts among those that are kept; with a limit of one, it and the newest stay."""
    seen = []

    class Watch(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            here = {int(path.name[11:]) for path in (tmp_path / "run").glob("checkpoint-*")}
            seen.append((here, state.best_global_step, state.global_step))

    made = short(tmp_path / "run", Watch(), max_steps=16, save_total_limit=1, learning_rate=0.05)
    made.train()
    assert len(seen) == 8
    assert any(best < step - 2 for _, best, step in seen)  # else this test shows nothing
    for here, best, step in seen:
        assert here == {best, step}
    best = load_arrays(tmp_path / f"run/checkpoint-{made.state.best_global_step}/model.safetensors")
    made.save_model(tmp_path / "final")
    for name, array in load_arrays(tmp_path / "final/model.safetensors").items():
        np.testing.assert_array_equal(array, best[name])
