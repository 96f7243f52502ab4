"""numtx finetune: from a model, a task and a file of rows to a fine-tuned folder, its measures and its report."""

import json
import re
import shlex
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from finetune_models import TASKS, rows_of, write_model
from safetensors.numpy import load_file

pytest.importorskip("tokenizers", reason="real tokenizers need the package tokenizers")
FILES = {"model.safetensors", "config.json", "tokenizer.json", "metrics.json", "report.md", "finetune.json"}
QUICK = ("--epochs", 2, "--batch", 8, "--threads", 1, "--eval-share", 0.25)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The folder of a drawn model of a kind."""
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = write_model(tmp_path_factory.mktemp("models") / kind, kind)
        return made[kind]

    return folder


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def asked(models, tmp_path):
    """Arguments for a task: asked("regression", rows=...) -> [model, --task, ...]; the run is in `out`."""

    def arguments(task, rows=None, name="rows.jsonl"):
        write_rows(tmp_path / name, rows_of(task) if rows is None else rows)
        model = models(TASKS[task])
        blocks = ("--max-length", 16) if task in ("language-modeling", "fill-mask") else ()
        return [model, "--task", task, "--data", name, "--out", "out", *QUICK, *blocks]

    return arguments


def evaluations(out):
    """The steps of the lines of evaluations."""
    return [line.split()[0] for line in out.splitlines() if re.match(r" +\d+  ", line)]


@pytest.mark.parametrize("task", TASKS)
def test_each_task_comes_to_a_folder(numtx, asked, tmp_path, task):
    ran = numtx("finetune", *asked(task))
    assert (ran.code, ran.err) == (0, ""), ran
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} >= FILES - {"tokenizer.json"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 < metrics["loss"] < 10
    report = (out / "report.md").read_text(encoding="utf-8")
    for heading in ("# Fine-tuned: ", "## On held-out rows", "## Curves", "## Settings", "## Versions"):
        assert heading in report
    for line in report.splitlines():
        if line.startswith("!["):
            assert (out / re.search(r"\((.+)\)", line)[1]).stat().st_size > 1000
    assert ("## Confusion" in report) == (task == "text-classification")
    assert "step  training  held-out" in ran.out
    assert "kept in  out: " in ran.out.replace(str(tmp_path) + "/", "")
    steps = evaluations(ran.out)
    assert steps == list(dict.fromkeys(steps))  # a line an evaluation


def test_a_rule_is_learned(numtx, asked, tmp_path):
    ran = numtx(
        "finetune", *asked("text-classification", rows_of("text-classification", 36)), "--steps", 60, "--lr", 1e-2
    )
    assert ran.code == 0, ran
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["accuracy"] == 1.0
    assert metrics["baseline"]["accuracy"] < 0.7
    log = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["eval_loss"] for row in log if "eval_loss" in row}
    assert metrics["loss"] == pytest.approx(losses[metrics["best_step"]])  # the weights of the best step were kept
    assert metrics["best_step"] < max(losses)
    answer = numtx("run", "text-classification", "the tree water is bad", "--model", "out", "--json")
    assert json.loads(answer.out)[0]["label"] == "bad"


def test_the_seed_decides(numtx, asked, tmp_path):
    made = {}
    for name, seed, more in (("a", 0, ()), ("b", 0, ("--threads", 2)), ("c", 1, ())):
        arguments = asked("text-classification")
        arguments[arguments.index("out")] = name
        assert numtx("finetune", *arguments, "--seed", seed, *more).code == 0
        made[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]


def test_the_seed_decides_the_training_too(numtx, asked, tmp_path):
    write_rows(tmp_path / "other.jsonl", rows_of("language-modeling", 8))  # so that nothing else is drawn: no new head
    made = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = asked("language-modeling")
        arguments[arguments.index("out")] = name
        assert numtx("finetune", *arguments, "--eval-data", "other.jsonl", "--seed", seed, "--steps", 2).code == 0
        made[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]


def test_checkpoints_stay_where_asked_for(numtx, asked, tmp_path):
    assert numtx("finetune", *asked("text-classification"), "--set", "save_total_limit=2").code == 0
    assert list((tmp_path / "out").glob("checkpoint-*"))


def test_csv_columns_by_other_names_and_held_out_file(numtx, asked, tmp_path):
    rows = rows_of("text-classification")
    for name, part in (("train.csv", rows[:16]), ("test.csv", rows[16:])):
        lines = ["grade,words", *(f"{row['label']},{row['text']}" for row in part)]
        (tmp_path / name).write_text("\n".join(lines))
    model = asked("text-classification")[0]
    where = ["--data", "train.csv", "--eval-data", "test.csv", "--column", "text=words", "--column", "label=grade"]
    ran = numtx("finetune", model, "--task", "text-classification", *where, "--out", "out", "--steps", 2)
    assert ran.code == 0, ran
    assert "8 rows" in ran.out
    assert "text: words" in ran.out


def test_bytes_keep_words_apart(numtx, asked, models, tmp_path):
    ran = numtx("finetune", models("gpt2"), *asked("token-classification")[1:])
    assert (ran.code, ran.err) == (0, ""), ran
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text())["add_prefix_space"] is True


def test_only_the_head_is_trained(numtx, asked, models, tmp_path):
    ran = numtx("finetune", *asked("text-classification"), "--freeze", "body.*")
    assert ran.code == 0, ran
    assert "of which 34 are trained" in ran.out
    before, after = (load_file(folder / "model.safetensors") for folder in (models("bert"), tmp_path / "out"))
    for name, array in before.items():
        assert np.array_equal(array, after[f"bert.{name}"]), name


def test_low_rank_adapters(numtx, asked, models, tmp_path):
    ran = numtx("finetune", *asked("text-classification"), "--lora", 2, "--steps", 12, "--eval-every", 12)
    assert ran.code == 0, ran
    files = {path.name for path in (tmp_path / "out/adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert "are trained" in ran.out
    before, after = (load_file(folder / "model.safetensors") for folder in (models("bert"), tmp_path / "out"))
    changed = {name for name, array in before.items() if not np.array_equal(array, after[f"bert.{name}"])}
    layers = [f"encoder.layer.{k}.attention.self.{part}.weight" for k in range(2) for part in ("query", "value")]
    assert changed == set(layers)  # merged into what the adapters stand on, and nothing else
    assert numtx("run", "text-classification", "the tree is bad", "--model", "out").code == 0


def test_training_arguments_by_their_names(numtx, asked, tmp_path):
    chosen = ["--set", "lr_scheduler_type=cosine", "--set", "weight_decay=0.2", "--set", "label_smoothing_factor=0.1"]
    ran = numtx("finetune", *asked("text-classification"), *chosen)
    assert ran.code == 0, ran
    assert "cosine" in ran.out
    report = (tmp_path / "out/report.md").read_text()
    assert "| weight_decay | 0.2 |" in report


@pytest.mark.parametrize(
    ("task", "measure", "best"), [("text-classification", "eval_loss", min), ("regression", "pearson", max)]
)
def test_the_best_by_another_measure_is_the_best(numtx, asked, tmp_path, task, measure, best):
    chosen = ["--set", f"metric_for_best_model={measure}", "--steps", 8, "--eval-every", 1, "--lr", 1e-2]
    assert numtx("finetune", *asked(task), *chosen).code == 0
    log = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    name = f"eval_{measure.removeprefix('eval_')}"
    values = {row["step"]: row[name] for row in log if name in row}
    assert len(set(values.values())) > 1
    kept = json.loads((tmp_path / "out/metrics.json").read_text())["best_step"]
    assert values[kept] == best(values.values())


@pytest.mark.parametrize("steps", ["none", "some"])
def test_a_run_that_saved_nothing_leaves_its_folder_free(numtx, asked, tmp_path, steps):
    """Whether it made no step or some."""
    every = rows_of("regression")
    rows = [row | {"label": 1e30} for row in every] if steps == "none" else [*every[:-1], every[-1] | {"label": 1e30}]
    write_rows(tmp_path / "other.jsonl", every)
    more = ("--eval-data", str(tmp_path / "other.jsonl"), "--batch", "1", "--epochs", "1", "--eval-every", "24")
    ran = numtx("finetune", *asked("regression", rows), *more)
    ran.refused(1, "finite")
    assert ("at step 1;" in ran.err) == (steps == "none")
    assert not (tmp_path / "out").exists()
    assert numtx("finetune", *asked("regression")).code == 0


def test_what_the_screen_says_to_use_it_works(numtx, asked):
    ran = numtx("finetune", *asked("language-modeling"))
    command = shlex.split(re.search(r"to use +numtx (.+)", ran.out)[1].replace("...", "'the tree'"))
    written = numtx(*command, "--tokens", 3)
    assert (written.code, written.err) == (0, ""), written
    assert written.out.startswith("the tree")
    numtx("eval", "out").refused(1, "got 'out' of numtx finetune; numtx evaluate perplexity --model")


def test_the_report_has_each_evaluation_as_it_was(numtx, asked, tmp_path):
    """The last step is evaluated too, and what is measured at the end, of the best step, is not said to be its."""
    wild = ["--lr", 3, "--set", "lr_scheduler_type=constant", "--set", "warmup_ratio=0"]
    ran = numtx("finetune", *asked("language-modeling"), "--steps", 7, "--eval-every", 3, *wild)
    assert ran.code == 0, ran
    seen = {line.split()[0]: float(line.split()[2]) for line in ran.out.splitlines() if re.match(r" +\d+  ", line)}
    assert list(seen) == ["3", "6", "7"]
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (\d+) \| \S+ \| (\S+) \|", report, re.MULTILINE))
    assert {step: float(loss) for step, loss in table.items()} == pytest.approx(seen, rel=1e-4)
    kept = json.loads((tmp_path / "out/metrics.json").read_text())
    assert kept["best_step"] < 7  # else this test shows nothing
    assert kept["loss"] == pytest.approx(min(seen.values()), rel=1e-4)


def test_length_and_units_are_said(numtx, asked):
    ran = numtx("finetune", *asked("text-classification"))
    assert re.search(r"training +2 epochs, 6 steps of 8 rows, learning rate \S+ linear, warm-up 1 steps", ran.out), ran
    again = asked("fill-mask")
    again[again.index("out")] = "other"
    ran = numtx("finetune", *again, "--steps", 2)
    assert re.search(r"data .*rows.jsonl, \d+ blocks; text\n", ran.out), ran
    assert "training  2 steps of 8 blocks" in ran.out


def test_it_ends_early(numtx, asked):
    ran = numtx(
        "finetune", *asked("text-classification"), "--lr", 1e-12, "--steps", 40, "--eval-every", 1, "--patience", 2
    )
    assert ran.code == 0, ran
    assert len(evaluations(ran.out)) < 10


def test_stopped_and_resumed_is_the_same_run(numtx, asked, start, tmp_path):
    arguments = [*asked("text-classification"), "--steps", 400, "--eval-every", 100]
    assert numtx("finetune", *arguments).code == 0
    whole = tmp_path / "whole"
    shutil.move(tmp_path / "out", whole)
    process = start("finetune", *arguments, cwd=tmp_path)
    while not re.match(r" +100  ", line := process.stdout.readline()):
        assert line, process.stderr.read()
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, ""), out
    assert "all of it is saved" in out
    assert "to go on: numtx finetune --resume out" in out
    assert not (tmp_path / "out/report.md").exists()
    assert list((tmp_path / "out").glob("checkpoint-*"))
    ran = numtx("finetune", "--resume", "out")
    assert ran.code == 0, ran
    assert int(evaluations(ran.out)[0]) > 100  # it did not begin anew
    assert not list((tmp_path / "out").glob("checkpoint-*"))
    for name in ("model.safetensors", "metrics.json"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes(), name
    (tmp_path / "rows.jsonl").unlink()
    assert "is finished" in numtx("finetune", "--resume", "out").out


BAD_OPTIONS = {
    "no model": ([], 2, "expected MODEL"),
    "no task": (["m"], 2, "expected --task"),
    "another task": (["--task", "text-clasification"], 2, "is it text-classification"),
    "a column of no role": (["--column", "txt=text"], 1, "got one for txt"),
    "half a column": (["--column", "text"], 2, "ROLE=NAME"),
    "no such column": (["--column", "text=tweet"], 1, "expected a column tweet"),
    "an unknown argument": (["--set", "wait_decay=1"], 2, "weight_decay"),
    "an argument that has an option": (["--set", "learning_rate=1"], 2, "--lr"),
    "no rate": (["--lr", 0], 2, "--lr"),
    "no number": (["--lr", "nan"], 2, "--lr"),
    "no rows": (["--batch", 0], 2, "--batch"),
    "all held out": (["--eval-share", 1], 2, "--eval-share"),
    "a pattern of nothing": (["--freeze", "boddy.*"], 1, "boddy"),
    "two ways": (["--freeze", "body.*", "--lora", 2], 2, "without --freeze"),
    "rank 0": (["--lora", 0], 2, "--lora"),
    "too long": (["--max-length", 65], 1, "from 1 to 64"),
    "never evaluated": (["--steps", 6, "--eval-every", 7], 2, "at most the 6 steps"),
    "evaluated too late": (["--set", "eval_delay=100"], 2, "eval_delay of at most 6"),
    "no such measure": (["--set", "metric_for_best_model=f2"], 2, "loss or accuracy or f1"),
    "not the best": (["--set", "load_best_model_at_end=false"], 2, "load_best_model_at_end"),
    "no scores": (["--set", "prediction_loss_only=true"], 2, "prediction_loss_only"),
    "a writer": (["--set", "predict_with_generate=true"], 2, "predict_with_generate"),
    "nothing to train": (["--freeze", "*"], 2, "all frozen by *"),
    "a prefix of nothing": (["--prefix", "classify: "], 2, "summarization or translation"),
    "a target of nothing": (["--max-target-length", 9], 2, "summarization or translation"),
    "too smooth": (["--set", "label_smoothing_factor=2"], 2, "label_smoothing_factor"),
    "no such file": (["--data", "none.csv"], 1, "none.csv"),
    "no such model": (["nothing-here"], 1, "nothing-here"),
}


@pytest.mark.parametrize("what", BAD_OPTIONS)
def test_what_cannot_be_is_refused_before_training(numtx, asked, tmp_path, what):
    options, code, words = BAD_OPTIONS[what]
    arguments = asked("text-classification")
    if what == "no model":
        arguments = arguments[1:]
    elif what == "no task":
        arguments = [arguments[0], *arguments[3:]]
        options = []
    elif what == "no such model":
        arguments[0] = "./nothing-here"
        options = []
    elif options[0] == "--task":
        arguments[2] = options[1]
        options = []
    numtx("finetune", *arguments, *options).refused(code, words)
    assert not (tmp_path / "out").exists()


BAD_ROWS = {
    "a class that is missing": [{"text": "a", "label": "x"}, {"text": "b", "label": None}],
    "a class alone": [{"text": "a", "label": "x"}] * 8,
    "no rows": [],
    "a column missing": [{"text": "a"}] * 8,
    "a row without a column": [{"text": "a", "label": "x"}, {"text": "b"}],
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_rows_that_cannot_be(numtx, asked, tmp_path, what):
    numtx("finetune", *asked("text-classification", BAD_ROWS[what])).refused(1, "expected")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("text-classification", {"text": "a tree", "label": "neither"}),
        ("token-classification", {"tokens": ["a"], "ner_tags": ["neither"]}),
    ],
)
def test_a_class_of_held_out_rows_alone_is_named(numtx, asked, tmp_path, task, row):
    write_rows(tmp_path / "other.jsonl", [row])
    numtx("finetune", *asked(task), "--eval-data", "other.jsonl").refused(1, "got neither in held-out rows alone")


def test_what_is_reported_is_the_loss_without_smoothing(numtx, asked, tmp_path):
    found = []
    for smoothing in (0, 0.3):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        chosen = ["--set", f"label_smoothing_factor={smoothing}", "--lr", 1e-12, "--steps", 2]
        assert numtx("finetune", *asked("language-modeling"), *chosen).code == 0
        found.append(json.loads((tmp_path / "out/metrics.json").read_text()))
    assert found[1]["perplexity"] == pytest.approx(found[0]["perplexity"], rel=1e-4)
    assert "| label_smoothing_factor | 0.3 |" in (tmp_path / "out/report.md").read_text()


def test_a_folder_with_content_is_refused(numtx, asked, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("precious")
    numtx("finetune", *asked("text-classification")).refused(2, "other files")
    (tmp_path / "out/finetune.json").write_text("{}")
    numtx("finetune", *asked("text-classification")).refused(2, "--resume")
    assert (tmp_path / "out/mine.txt").read_text() == "precious"


def test_what_cannot_be_resumed(numtx, asked, tmp_path):
    numtx("finetune", "--resume", "nowhere").refused(1, "no finetune.json")
    assert numtx("finetune", *asked("text-classification"), "--steps", 2).code == 0
    (tmp_path / "out/report.md").unlink()
    numtx("finetune", "--resume", "out", "--lr", 1).refused(2, "expected the lr of the run")
    numtx("finetune", "--resume", "out", "--out", "other").refused(2, "--out")
    write_rows(tmp_path / "rows.jsonl", rows_of("text-classification")[::-1])
    numtx("finetune", "--resume", "out").refused(1, "data that the run began with")
    write_rows(tmp_path / "moved.jsonl", rows_of("text-classification"))
    assert numtx("finetune", "--resume", "out", "--data", "moved.jsonl").code == 0


def test_killed_before_its_first_save_it_begins_anew(numtx, asked, tmp_path):
    arguments = [*asked("text-classification"), "--steps", 4]
    assert numtx("finetune", *arguments).code == 0
    expected = (tmp_path / "out/model.safetensors").read_bytes()
    for path in (tmp_path / "out").iterdir():
        if path.is_file() and path.name not in ("finetune.json", "training.json"):
            path.unlink()
    ran = numtx("finetune", "--resume", "out")
    assert ran.code == 0, ran
    assert (tmp_path / "out/model.safetensors").read_bytes() == expected


def test_without_matplotlib_the_curve_is_text(numtx, asked, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert numtx("finetune", *asked("text-classification")).code == 0
    report = (tmp_path / "out/report.md").read_text()
    assert "```text" in report
    assert "![" not in report
    assert not list((tmp_path / "out").glob("*.png"))
