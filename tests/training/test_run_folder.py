"""What a run leaves on disk, and that a failed save leaves what was there."""

import errno
import json
import os

import numpy as np
import pytest

from numtx.training import AdamW, Callback, RunFolder, TrainingLoop, load_run
from numtx.training.progress import Progress


def split(tokens):
    return tokens[:500], tokens[500:]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def run(make_model, tmp_path):
    return RunFolder.create(tmp_path / "run", make_model(), {"training": {}})


def test_what_is_in_a_run(make_model, make_config, tokens, tokenizer, tmp_path):
    source = {"source": "-", "characters": 768}
    loop = TrainingLoop(
        make_model(), *split(tokens), make_config(), tmp_path / "run", tokenizer=tokenizer, data=source, text="kept\r\n"
    )
    loop.train()
    folder = tmp_path / "run"
    assert names(folder) == [
        "checkpoint-10",
        "checkpoint-8",
        "config.json",
        "log.jsonl",
        "model.safetensors",
        "text.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ]
    assert names(folder / "checkpoint-10") == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
    ]
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"
    settings = json.loads((folder / "training.json").read_text())
    assert settings["format_version"] == 1
    assert settings["data"] == source
    assert settings["training"]["steps"] == 10
    assert RunFolder.open(folder).text() == "kept\r\n"
    opened = load_run(folder)
    assert opened.config == make_config()
    assert opened.folder == folder
    np.testing.assert_array_equal(opened.tokenizer.encode("the cat"), tokenizer.encode("the cat"))
    assert opened.model(tokens[None, :8]).logits.shape == (1, 8, tokenizer.vocab_size)


def test_float64_runs_keep_their_bits(make_model, make_config, tokens, tmp_path):
    loop = TrainingLoop(make_model(dtype=np.float64), tokens, None, make_config(steps=2), tmp_path / "run")
    loop.train()
    opened = load_run(tmp_path / "run")
    assert opened.model.dtype == np.float64
    assert opened.tokenizer is None
    np.testing.assert_array_equal(opened.model.body.embedding.weight, loop.model.body.embedding.weight)
    assert load_run(tmp_path / "run", dtype=np.float32).model.dtype == np.float32


def test_a_folder_with_content_is_refused(run, make_model, tmp_path):
    with pytest.raises(ValueError, match="with a run, which can be resumed"):
        RunFolder.create(run.path, make_model(), {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="with other files"):
        RunFolder.create(tmp_path / "other", make_model(), {})
    assert names(tmp_path / "other") == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", make_model(), {})
    assert (tmp_path / "empty" / "training.json").exists()


def test_the_last_checkpoints_are_kept_in_the_order_of_numbers(run, make_model):
    model = make_model()
    state = AdamW(model).state_dict()
    (run.path / "checkpoint-of-mine").mkdir()
    for step in (8, 9, 10, 11):
        run.save_checkpoint(model, state, Progress(step), keep=3)
    assert [path.name for path in run.checkpoints()] == ["checkpoint-9", "checkpoint-10", "checkpoint-11"]
    assert run.newest_checkpoint().progress == Progress(11)
    assert (run.path / "checkpoint-of-mine").exists()


def numbers(run):
    return [int(path.name.removeprefix("checkpoint-")) for path in run.checkpoints()]


def test_all_checkpoints_are_kept_where_no_number_is_given(run, make_model):
    model = make_model()
    for step in range(1, 6):
        run.save_checkpoint(model, AdamW(model).state_dict(), Progress(step))
    assert numbers(run) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("keep", range(1, 8))
def test_as_many_are_kept_as_were_asked_for(run, make_model, keep):
    model = make_model()
    for step in range(1, 8):
        run.save_checkpoint(model, AdamW(model).state_dict(), Progress(step), keep)
        assert numbers(run) == list(range(1, step + 1))[-keep:]


@pytest.mark.parametrize(("keep", "expected"), [(1, [2, 9]), (2, [2, 9]), (3, [2, 8, 9]), (9, [2, 5, 7, 8, 9])])
def test_one_may_be_kept_for_good(run, make_model, keep, expected):
    model = make_model()
    for step in (2, 5, 7, 8):
        run.save_checkpoint(model, AdamW(model).state_dict(), Progress(step))
    run.save_checkpoint(model, AdamW(model).state_dict(), Progress(9), keep, never_removed=2)
    assert numbers(run) == expected
    run.save_checkpoint(model, AdamW(model).state_dict(), Progress(10), 1, never_removed=10)
    assert numbers(run) == [10]


def test_the_old_goes_only_when_the_new_was_verified(run, make_model, monkeypatch):
    model = make_model()
    state = AdamW(model).state_dict()
    run.save_checkpoint(model, state, Progress(1), keep=1)

    def damaged(path):
        assert numbers(run) == [1, 2]
        raise ValueError("expected whole, got half")

    monkeypatch.setattr("numtx.training.run_folder.verify_manifest", damaged)
    with pytest.raises(ValueError, match="got half"):
        run.save_checkpoint(model, state, Progress(2), keep=1)
    monkeypatch.undo()
    assert numbers(run) == [1, 2]


def test_no_half_of_an_old_checkpoint_stands_under_its_name(run, make_model, monkeypatch):
    """As if the process was killed while it removed one."""
    model = make_model()
    state = AdamW(model).state_dict()
    run.save_checkpoint(model, state, Progress(1), keep=1)

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("numtx.checkpoints.atomic.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run.save_checkpoint(model, state, Progress(2), keep=1)
    monkeypatch.undo()
    assert numbers(run) == [2]
    run.remove_after(2)
    assert not list(run.path.glob(".*"))


def test_a_run_is_replaced_only_on_request(run, make_model):
    model = make_model()
    run.save_checkpoint(model, AdamW(model).state_dict(), Progress(5))
    run.append_log({"step": 5})
    (run.path / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="with a run, which can be resumed"):
        RunFolder.create(run.path, None, {"keeps_best": "no"})
    new = RunFolder.create(run.path, None, {"keeps_best": "no", "data": {"new": 1}}, replace=True)
    assert (numbers(new), new.log()) == ([], [])
    assert RunFolder.open(run.path).settings["data"] == {"new": 1}
    assert (run.path / "mine.txt").read_text() == "kept"


def test_a_run_without_weights_of_its_own_may_stand_beside_other_files(make_model, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/events.1").write_text("of a board")
    RunFolder.create(tmp_path, None, {"keeps_best": "checkpoint"})
    assert names(tmp_path) == ["log.jsonl", "runs", "training.json"]
    RunFolder.open(tmp_path)
    foreign = tmp_path / "foreign"
    (foreign / "checkpoint-500").mkdir(parents=True)
    for replace in (False, True):
        with pytest.raises(ValueError, match="with checkpoints that no numtx run wrote"):
            RunFolder.create(foreign, None, {"keeps_best": "checkpoint"}, replace=replace)
    assert names(foreign) == ["checkpoint-500"]


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5, 6, 7])
def test_a_full_disk_leaves_the_checkpoint_before(run, make_model, monkeypatch, after):
    model = make_model()
    state = AdamW(model).state_dict()
    run.save_checkpoint(model, state, Progress(1), keep=1)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    real, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        return full_disk() if len(calls) > after else real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ValueError, match=r"RunFolder: expected to save .*No space left.*checkpoint-1' is intact"):
        run.save_checkpoint(model, state, Progress(2), keep=1)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert run.newest_checkpoint().path.name == "checkpoint-1"


def test_a_full_disk_ends_training_and_the_run_can_go_on(make_model, make_config, tokens, tmp_path, monkeypatch):
    class Fill(Callback):
        def on_step(self, loop, report):
            if report.step == 6:
                monkeypatch.setattr(os, "fsync", full_disk)

    arguments = (*split(tokens), make_config(), tmp_path / "run")
    with pytest.raises(ValueError, match="No space left"):
        TrainingLoop(make_model(), *arguments, callbacks=[Fill()]).train()
    monkeypatch.undo()
    assert names(tmp_path / "run") == [
        "checkpoint-0",
        "checkpoint-4",
        "config.json",
        "log.jsonl",
        "model.safetensors",
        "training.json",
    ]
    assert [row["step"] for row in load_run(tmp_path / "run").log] == [4]
    resumed = TrainingLoop(make_model(), *arguments)
    assert resumed.train(resume=True).step == 10
    whole = TrainingLoop(make_model(), *arguments[:3])
    whole.train()
    np.testing.assert_array_equal(resumed.optimizer.flat.buffer, whole.optimizer.flat.buffer)


def test_a_full_disk_at_the_start_makes_no_run(make_model, make_config, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ValueError, match="nothing was saved before"):
        TrainingLoop(make_model(), *split(tokens), make_config(), tmp_path / "run").train()
    assert names(tmp_path) == []


def test_a_half_written_line_of_the_log_is_cut(run):
    run.append_log({"step": 4, "loss": 1.5})
    run.append_log({"step": 8, "loss": 1.25})
    with open(run.path / "log.jsonl", "a") as file:
        file.write('{"step": 12, "lo')
    assert [row["step"] for row in run.log()] == [4, 8]
    assert run.cut_log(7) == [{"step": 4, "loss": 1.5}]
    run.append_log({"step": 8, "loss": 1.0})
    assert run.log() == [{"step": 4, "loss": 1.5}, {"step": 8, "loss": 1.0}]


def test_a_row_of_the_log_without_a_step_is_refused(run):
    for row in ({"loss": 1.5}, {"step": "4"}):
        (run.path / "log.jsonl").write_text(json.dumps({"step": 2}) + "\n" + json.dumps(row) + "\n")
        for read in (run.log, lambda: run.cut_log(9)):
            with pytest.raises(ValueError, match=r"^RunFolder: expected a step in row 2 of [^\n]*log\.jsonl'[^\n]*$"):
                read()


@pytest.mark.parametrize(
    "wrong",
    [{"dtype": "blah"}, {"dtype": "float16"}, {"dtype": None}, {"dtype": []}, {"training": []}, {"data": "text.txt"}],
)
def test_settings_of_another_kind_are_refused(run, wrong):
    settings = json.loads((run.path / "training.json").read_text())
    (run.path / "training.json").write_text(json.dumps(settings | wrong))
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"^RunFolder: expected [^\n]*training\.json'[^\n]*, got {name} [^\n]*$"):
        load_run(run.path)


def test_load_run_says_what_is_wrong(run, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"log\.jsonl', which is a file"):
        load_run(run.path / "log.jsonl")
    (run.path / "training.json").write_text('{"format_version": 1, "numtx": "0.1.0"}')
    with pytest.raises(ValueError, match="expected the settings of a training"):
        load_run(run.path)
    (run.path / "training.json").write_text('{"format_version": 1, "training": {"flux": 3}}')
    with pytest.raises(ValueError, match="settings that TrainingConfig knows"):
        load_run(run.path)
    (run.path / "model.safetensors").write_bytes(b"\x08")
    (run.path / "training.json").write_text('{"format_version": 1, "training": {}}')
    with pytest.raises(ValueError, match="whole safetensors file"):
        load_run(run.path)
