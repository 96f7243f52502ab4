"""The end of a fine-tuning: the model that did best is judged, written, and reported."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from numtx.cli.finetune_job import FineTuneJob
from numtx.cli.finetune_settings import OWN_PLACE
from numtx.cli.report import write_metrics, write_report

HIDDEN = dict.fromkeys(("do_eval", "disable_tqdm", "remove_unused_columns", "prediction_loss_only"))


def finish(job: FineTuneJob, facts: Sequence[tuple[str, str]]) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """Write model, tokenizer, metrics.json and report.md; the checkpoints, with which it could go on, go.

    Parameters
    ----------
    job : FineTuneJob
        Trained; its model has the weights that did best.
    facts : list of (name, value)
        What is said of it.

    Returns
    -------
    metrics, baseline : dict
    written : list of str
        The files of the report.
    """
    trainer, task, model = job.trainer, job.task, job.model
    log = [row for row in trainer.state.log_history if "step" in row]  # what comes below is of the best step
    smoothing, trainer.args.label_smoothing_factor = trainer.args.label_smoothing_factor, 0.0  # the loss as it is
    if task.scores:
        found = trainer.predict(job.held_out, metric_key_prefix="eval")
        measured, scores, labels = found.metrics, found.predictions, found.label_ids
    else:
        measured, scores, labels = trainer.evaluate(), None, None
    trainer.args.label_smoothing_factor = smoothing
    if model.adapter is not None:  # by --lora, or the model's own
        model.save_pretrained(job.folder / "adapter")
        model = model.merge_and_unload()
    model.save_pretrained(job.folder)
    job.tokenizer.save_pretrained(job.folder)
    findings = task.findings(model, job.tokenizer, scores, labels)
    loss = measured["eval_loss"]
    metrics: dict[str, float] = {"loss": loss, **task.of_loss(loss), **findings.metrics}
    write_metrics(job.folder, metrics, findings.baseline, trainer.state.best_global_step)
    written = write_report(
        job.folder,
        f"Fine-tuned: {job.settings.task}",
        facts,
        metrics,
        findings,
        log,
        _settings(job),
        getattr(task, "names", ()),
    )
    if "save_total_limit" not in job.settings.others:  # asked for by name, they stay
        for path in job.folder.glob("checkpoint-*"):
            shutil.rmtree(path)
    return metrics, dict(findings.baseline), written


def _settings(job: FineTuneJob) -> dict[str, Any]:
    """Return what it takes to do it again: the options, and the training arguments that are not as usual."""
    options = {name: value for name, value in asdict(job.settings).items() if value not in (None, [], {})}
    if job.settings.steps is not None:
        options.pop("epochs")  # the steps count instead
    usual = type(job.trainer.args)(output_dir=job.settings.out).to_dict()
    arguments = job.trainer.args.to_dict().items()
    return options | {k: value for k, value in arguments if value != usual.get(k) and k not in OWN_PLACE | HIDDEN}
