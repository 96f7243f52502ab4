"""A run that was stopped and resumed is the run that was never stopped, bit for bit."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest

from numtx.checkpoints import save_arrays, write_manifest
from numtx.training import Callback, RunFolder, TrainingLoop, refuse_changes


class StopAt(Callback):
    def __init__(self, *steps):
        self.steps = steps

    def on_step(self, loop, report):
        if report.step in self.steps:
            loop.stop()


class Crash(Callback):
    """Ends as a killed process does: nothing is saved."""

    def __init__(self, step):
        self.step = step

    def on_step(self, loop, report):
        if report.step == self.step:
            raise KeyboardInterrupt


def split(tokens):
    return tokens[:500], tokens[500:]


def everything(folder):
    """The numbers a run leaves, without its times."""
    run = RunFolder.open(folder)
    newest = run.newest_checkpoint()
    state = {name: value for name, value in asdict(newest.progress).items() if name not in ("seconds", "since")}
    log = [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in run.log()]
    weights = [(newest.path / "model.safetensors").read_bytes(), (run.path / "model.safetensors").read_bytes()]
    return state, log, weights, {name: array.tobytes() for name, array in newest.optimizer.items()}


@pytest.fixture
def train(make_model, make_config, tokens, tmp_path):
    """`train(name, *callbacks, resume=False, **settings)`: ten steps with dropout."""

    def run(name, *callbacks, resume=False, **settings):
        model = make_model(dropout=0.2)
        loop = TrainingLoop(model, *split(tokens), make_config(**settings), tmp_path / name, callbacks=callbacks)
        return loop.train(resume=resume)

    return run


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("stops", [(1,), (3, 7), (4,), (5, 6, 9), (8,)])
def test_stopped_and_resumed_is_the_same_run(train, tmp_path, stops, schedule):
    train("whole", schedule=schedule)
    result = train("parts", StopAt(*stops), schedule=schedule)
    for threads in (2, 1, 3, 2):  # threads may differ
        if not result.stopped:
            break
        result = train("parts", StopAt(*stops), resume=True, threads=threads, schedule=schedule)
    assert result.step == 10
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


@pytest.mark.parametrize("at", [1, 3, 4, 7, 9])
def test_killed_and_resumed_is_the_same_run(train, tmp_path, at):
    train("whole", save_every=3)
    with pytest.raises(KeyboardInterrupt):
        train("parts", Crash(at), save_every=3)
    train("parts", resume=True, save_every=3)
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


def test_accumulation_and_recomputing_resume_too(train, tmp_path):
    settings = {"accumulation": 2, "recompute": True}
    train("whole", **settings)
    train("parts", StopAt(5), **settings)
    train("parts", resume=True, **settings)
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


def cut_short(checkpoint):
    path = checkpoint / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def state_of_something_else(checkpoint):
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    (checkpoint / "trainer_state.json").write_text(json.dumps({**state, "step": "seven"}))


def weights_of_another_model(checkpoint):
    """Whole by their header."""
    save_arrays(checkpoint / "model.safetensors", {"transformer.wte.weight": np.zeros((2, 2), np.float32)})


def one_bit(name):
    """Turn one bit of a file over, which no format notices."""

    def damage(checkpoint):
        content = bytearray((checkpoint / name).read_bytes())
        content[-1] ^= 1
        (checkpoint / name).write_bytes(content)

    return damage


def no_manifest(checkpoint):
    (checkpoint / "manifest.json").unlink()


def cut_manifest(checkpoint):
    (checkpoint / "manifest.json").write_text((checkpoint / "manifest.json").read_text()[:40])


def no_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()


DAMAGES = [
    cut_short,
    weights_of_another_model,
    state_of_something_else,
    one_bit("model.safetensors"),
    one_bit("optimizer.safetensors"),
    no_manifest,
    cut_manifest,
    no_weights,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over(train, tmp_path, damage):
    train("whole")
    train("parts", StopAt(7))
    damage(tmp_path / "parts" / "checkpoint-7")
    (tmp_path / "parts" / ".checkpoint-9.new.0123abcd").mkdir()  # as a killed process leaves it
    with pytest.warns(UserWarning, match=r"passed over checkpoint-7 \(.*the newest whole one is '.*checkpoint-4'"):
        train("parts", StopAt(8), resume=True)
    assert [path.name for path in RunFolder.open(tmp_path / "parts").checkpoints()] == ["checkpoint-4", "checkpoint-8"]
    assert not list((tmp_path / "parts").glob(".*"))
    train("parts", resume=True)
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


def test_a_finished_run_resumes_to_itself(train, tmp_path):
    train("run")
    before = everything(tmp_path / "run")
    result = train("run", resume=True)
    assert (result.step, result.stopped) == (10, False)
    assert everything(tmp_path / "run") == before


def test_seconds_go_on(train, tmp_path):
    first = train("run", StopAt(6))
    second = train("run", resume=True)
    assert second.seconds > first.seconds
    seconds = [row["seconds"] for row in RunFolder.open(tmp_path / "run").log()]
    assert seconds == sorted(seconds)
    assert seconds[-1] > first.seconds


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 0.5}, "lr 0.5 (began with 0.01)"),
        ({"steps": 11}, "steps 11 (began with 10)"),
        ({"betas": (0.8, 0.9)}, "betas [0.8, 0.9] (began with [0.9, 0.99])"),
        ({"clip": None}, "clip None (began with 1.0)"),
        ({"shards": 2, "seed": 4}, "seed 4 (began with 3), shards 2 (began with 3)"),
    ],
)
def test_changed_settings_are_refused(train, tmp_path, change, said):
    train("run", StopAt(3))
    before = everything(tmp_path / "run")
    with pytest.raises(ValueError, match="resume: expected the settings of the run, got") as error:
        train("run", resume=True, **change)
    assert said in str(error.value)
    assert str(error.value).endswith("only threads may differ")
    assert everything(tmp_path / "run") == before


def test_another_model_text_dtype_or_source_is_refused(train, make_model, make_config, tokens, tmp_path):
    train("run", StopAt(3))
    texts = split(tokens)
    cases = [
        (make_model(dropout=0.1), texts, {}, "resid_pdrop 0.1"),
        (make_model(0.2, np.float64), texts, {}, "dtype float64"),
        (make_model(0.2), (texts[0][:-1], texts[1]), {}, "expected the training text of the run"),
        (make_model(0.2), (texts[0], texts[1][:-1]), {}, "expected the held-out text of the run"),
        (make_model(0.2), texts, {"data": {"source": "elsewhere"}}, "data.source elsewhere (began with none)"),
    ]
    for model, data, more, said in cases:
        with pytest.raises(ValueError, match="resume: expected") as error:
            TrainingLoop(model, *data, make_config(), tmp_path / "run", **more).train(resume=True)
        assert said in str(error.value)


def test_what_is_compared():
    refuse_changes({"a": [1, 2], "threads": 1}, {"a": (1, 2), "threads": 5})
    refuse_changes({"a": 1, "b": 2}, {"a": 1})  # only what is asked
    refuse_changes({"a": 1}, {"a": 2}, free=("a",))
    with pytest.raises(ValueError, match=r"b 1 \(began with none\)"):
        refuse_changes({"a": 1}, {"b": 1})


def test_folders_that_cannot_be_resumed(train, make_model, make_config, tokens, tmp_path):
    def message(name):
        with pytest.raises(ValueError, match="expected") as error:
            train(name, resume=True)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "does not exist" in message("nowhere")
    (tmp_path / "foreign").mkdir()
    assert "no training.json" in message("foreign")
    train("run", StopAt(3))

    def damaged(name, damage):
        shutil.copytree(tmp_path / "run", tmp_path / name)
        damage(tmp_path / name)
        return message(name)

    def other_version(folder):
        settings = json.loads((folder / "training.json").read_text())
        (folder / "training.json").write_text(json.dumps({**settings, "format_version": 99, "numtx": "9.0"}))

    assert "of format 99, written by numtx 9.0" in damaged("version", other_version)
    assert "lacks model.safetensors" in damaged("weights", lambda f: (f / "model.safetensors").unlink())
    assert "whole JSON" in damaged("json", lambda f: (f / "training.json").write_text('{"format_version": 1, "tra'))
    lost = damaged("lost", lambda f: [shutil.rmtree(path) for path in f.glob("checkpoint-*")])
    assert "expected a whole checkpoint" in lost

    def no_state(folder):
        for path in folder.glob("checkpoint-*/trainer_state.json"):
            path.write_text('{"step": "three", "seconds": 0, "best_step": null, "best_value": null, "since": {}}')
            write_manifest(path.parent)

    assert "expected the state of a training" in damaged("state", no_state)
    cut = damaged("cut", lambda f: [(p / "optimizer.safetensors").write_bytes(b"") for p in f.glob("checkpoint-*")])
    assert "expected a whole checkpoint" in cut
    assert "got 0 bytes of optimizer.safetensors" in cut
    with pytest.raises(ValueError, match="expected the folder of a run to resume, got None"):
        TrainingLoop(make_model(), *split(tokens), make_config()).train(resume=True)
