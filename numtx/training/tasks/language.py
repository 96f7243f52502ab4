"""Fine-tuning a language model on text: the next token, or the masked ones."""

import math
from typing import ClassVar

import numpy as np

from numtx.models.auto import AutoModelForCausalLM, AutoModelForMaskedLM
from numtx.text import DataCollatorForLanguageModeling, Dataset, DefaultDataCollator, group_texts
from numtx.training.tasks.data import OWNER, texts
from numtx.training.tasks.task import Findings, FineTuningTask, Table

SHOWN, PROMPT, WRITTEN = 6, 16, 40


class _OfText(FineTuningTask):
    """Texts joined and cut into blocks: without padding, and nothing left out but the end."""

    roles: ClassVar = {"text": ("text", "content", "sentence", "document")}
    whole_text = True
    scores = False
    longest = 256

    def check_rows(self, rows):
        texts(rows, self.columns["text"])

    def features(self, rows, model, tokenizer):
        length = self.source_length(model, tokenizer)
        encoded = self._encoded(rows, tokenizer)
        blocks = Dataset(group_texts(encoded, length)) if encoded["input_ids"] else Dataset({"input_ids": []})
        if not blocks.num_rows:
            tokens = sum(map(len, encoded["input_ids"]))
            part = "to train on" if rows is self.train else "held out"
            raise ValueError(
                f"{OWNER}: expected a text of at least one block of {length} tokens {part} (--max-length makes blocks "
                f"shorter), got {tokens}"
            )
        return blocks

    def of_loss(self, loss):
        return {"perplexity": math.exp(min(loss, 700.0))}

    def _encoded(self, rows, tokenizer) -> dict[str, list[list[int]]]:
        raise TypeError(f"{type(self).__name__} is no task of its own")


class LanguageModeling(_OfText):
    """The next token of a text. Texts of several rows are joined, an end token behind each."""

    name = "language-modeling"
    auto = AutoModelForCausalLM

    def _encoded(self, rows, tokenizer):
        ids = tokenizer(texts(rows, self.columns["text"]), add_special_tokens=False, verbose=False)["input_ids"]
        ends = [] if tokenizer.eos_token_id is None or len(ids) == 1 else [tokenizer.eos_token_id]
        return {"input_ids": [[*row, *ends] for row in ids]}

    def features(self, rows, model, tokenizer):
        blocks = super().features(rows, model, tokenizer)
        return blocks.add_column("labels", blocks["input_ids"])

    def collator(self, model, tokenizer):
        return DefaultDataCollator()

    def findings(self, model, tokenizer, predictions, labels):
        ids = self._encoded(self.held_out, tokenizer)["input_ids"]
        rows = []
        context = model.config.context or PROMPT + WRITTEN
        for row in [one for one in ids if len(one) > 1][:SHOWN]:
            cut = min(PROMPT, len(row) // 2, context - 1)
            made = model.generate(np.array([row[:cut]]), max_new_tokens=min(WRITTEN, context - cut), do_sample=False)
            rest = row[cut : cut + WRITTEN]
            rows.append(tuple(tokenizer.decode(one) for one in (row[:cut], rest, made[0][cut:])))
        table = Table(
            "Held-out text, written on", ("beginning", "as it goes on", "written"), rows, "By the likeliest token."
        )
        return Findings(tables=[table] if rows else [])


class FillMask(_OfText):
    """Masked tokens of a text: 15 in 100, of which 80 are masked, 10 another token, 10 as they were."""

    name = "fill-mask"
    auto = AutoModelForMaskedLM

    def _encoded(self, rows, tokenizer):
        if tokenizer.mask_token_id is None:
            raise ValueError(f"{OWNER}: expected a tokenizer with a mask token for fill-mask, got none")
        texts_ = texts(rows, self.columns["text"])
        return dict(tokenizer(texts_, return_special_tokens_mask=True, return_token_type_ids=False, verbose=False))

    def collator(self, model, tokenizer):
        return DataCollatorForLanguageModeling(tokenizer, mlm=True)

    def findings(self, model, tokenizer, predictions, labels):
        blocks = self.features(self.held_out, model, tokenizer)
        rng, rows = np.random.default_rng(0), []
        for block in blocks.select(range(min(SHOWN, blocks.num_rows))):
            ids, special = np.array(block["input_ids"][:64]), np.array(block["special_tokens_mask"][:64])
            if special.all():
                continue
            place = int(rng.choice(np.flatnonzero(special == 0)))
            asked = ids.copy()
            asked[place] = tokenizer.mask_token_id
            scores = model(asked[None], attention_mask=np.ones_like(asked)[None]).logits[0, place].astype(np.float64)
            best = int(scores.argmax())
            chance = math.exp(scores[best] - np.logaddexp.reduce(scores))
            around = asked[max(0, place - 10) : place + 11]
            rows.append(
                (tokenizer.decode(around), tokenizer.decode([ids[place]]), tokenizer.decode([best]), f"{chance:.2f}")
            )
        return Findings(tables=[Table("Held-out text", ("text", "right", "said", "certainty"), rows)] if rows else [])
