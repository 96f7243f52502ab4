"""Fine-tuning on texts with a target: summaries and translations."""

from typing import ClassVar

from numtx.metrics import load
from numtx.models.auto import AutoModelForSeq2SeqLM
from numtx.text import DataCollatorForSeq2Seq, Dataset
from numtx.training.tasks.data import texts
from numtx.training.tasks.task import Findings, FineTuningTask, Table, sample_rows

MEASURED, SHOWN = 200, 6  # held-out rows that are written for, and that are shown


class _Written(FineTuningTask):
    """A text and what is to be written for it. While training, the loss alone is measured."""

    auto = AutoModelForSeq2SeqLM
    scores = False
    writes = True
    target = 128  # tokens

    def check_rows(self, rows):
        for column in self.columns.values():
            texts(rows, column)

    def features(self, rows, model, tokenizer):
        sources = [self._prefix(model) + text for text in texts(rows, self.columns["text"])]
        encoded = tokenizer(
            sources,
            text_target=texts(rows, self.columns["target"]),
            truncation=True,
            max_length=self.source_length(model, tokenizer),
        )
        longest = self.lengths.target or self.target
        ends = tokenizer.eos_token_id
        labels = [
            ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1] if ids[-1] == ends else ids[longest - 1]]
            for ids in encoded["labels"]
        ]
        return Dataset(
            {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": labels}
        )

    def collator(self, model, tokenizer):
        return DataCollatorForSeq2Seq(tokenizer, model=model)

    def findings(self, model, tokenizer, predictions, labels):
        rows = self.held_out.select(sample_rows(self.held_out.num_rows, MEASURED))
        sources, wanted = (rows[self.columns[role]] for role in ("text", "target"))
        said = self._writings(model, tokenizer, sources)
        shown = [(sources[k], wanted[k], said[k]) for k in sample_rows(len(said), SHOWN)]
        note = f"The measures are of {len(said)} held-out rows." if len(said) < self.held_out.num_rows else ""
        table = Table("Held-out rows", ("source", "right", "written"), shown, note)
        said_as_is = _scores(self.kind, sources, wanted)
        return Findings(_scores(self.kind, said, wanted), said_as_is, [table], baseline_is="the source as it is")

    kind = ""

    def _prefix(self, model) -> str:
        """What stands before each source: as it was said, or as the model's config says for the task."""
        if self.prefix is not None:
            return self.prefix
        said = (model.config.other.get("task_specific_params") or {}).get(self.name) or {}
        return str(said.get("prefix", ""))

    def _writings(self, model, tokenizer, sources) -> list[str]:
        written: list[str] = []
        order = sorted(range(len(sources)), key=lambda k: len(sources[k]))  # little padding
        for start in range(0, len(order), 16):
            batch = tokenizer(
                [self._prefix(model) + sources[k] for k in order[start : start + 16]],
                truncation=True,
                max_length=self.source_length(model, tokenizer),
                padding=True,
                return_tensors="np",
            )
            ids = model.generate(
                batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=self.lengths.target or self.target,
            )
            written += tokenizer.batch_decode(ids, skip_special_tokens=True)
        back = dict(zip(order, written, strict=True))
        return [back[k] for k in range(len(sources))]


class Summarization(_Written):
    """A text and its summary, measured by ROUGE."""

    name, kind = "summarization", "rouge"
    roles: ClassVar = {
        "text": ("text", "document", "article", "dialogue", "source"),
        "target": ("summary", "highlights", "target", "headline", "title"),
    }


class Translation(_Written):
    """A text and its translation, measured by BLEU and chrF."""

    name, kind = "translation", "sacrebleu"
    roles: ClassVar = {"text": ("source", "text", "src"), "target": ("target", "translation", "tgt")}


def _scores(kind: str, said: list[str], wanted: list[str]) -> dict[str, float]:
    """Return ROUGE, or BLEU and chrF; {} where the package for it is missing."""
    try:
        if kind == "rouge":
            found = load("rouge").compute(predictions=said, references=wanted)
            return {name: float(found[name]) for name in ("rouge1", "rouge2", "rougeL")}
        references = [[one] for one in wanted]
        return {
            "bleu": float(load("sacrebleu").compute(predictions=said, references=references)["score"]),
            "chrf": float(load("chrf").compute(predictions=said, references=references)["score"]),
        }
    except ImportError:
        return {}
