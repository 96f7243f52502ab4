"""Decoder-only: a language model of characters, on the help topics that every Python carries.

    python examples/write_text.py --torch

It is the main job, `numtx train`, in a page: that command has a larger model, keeps the run, draws its curve and can
be resumed. The text is `pydoc_data/topics.py` of the Python that runs (PSF License), nothing is downloaded.
"""

import argparse
import math

from side_by_side import train

from numtx.models import DecoderOnlyTransformer
from numtx.text import CharTokenizer, python_topics, split_corpus
from numtx.training import TrainingConfig, Workers

CONTEXT = 64  # characters that the model sees


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--torch", action="store_true", help="train the same model in PyTorch too")
    arguments = parser.parse_args()

    text = python_topics()
    tokenizer = CharTokenizer.from_text(text)
    known, held_out = (tokenizer.encode(part) for part in split_corpus(text))  # the last tenth is held out
    print(f"data    {len(text):,} characters, {tokenizer.vocab_size} different ones; {len(held_out):,} held out")

    model = DecoderOnlyTransformer(
        vocab_size=tokenizer.vocab_size,
        d_model=128,
        nhead=4,
        dim_feedforward=512,
        num_layers=3,
        max_length=CONTEXT,
        norm_first=True,
        rng=arguments.seed,
    )
    steps = arguments.steps
    config = TrainingConfig(
        steps=steps,
        batch=12,
        context=CONTEXT,
        lr=2e-3,
        warmup=min(100, steps // 10),
        seed=arguments.seed,
        eval_every=-(-steps // 6),
    )
    size = sum(array.size for _, array in model.named_parameters())
    print(f"model   {size:,} parameters, {steps} steps of {config.batch} x {CONTEXT} characters")
    learned = train(model, known, held_out, config, arguments.torch)

    print(f"\n{'held out':<10}{'loss':>8}{'bits a character':>18}{'perplexity':>12}{'training':>10}")
    for name, _, loss, seconds in learned:
        print(f"{name:<10}{loss:>8.4f}{loss / math.log(2):>18.4f}{math.exp(loss):>12.3f}{seconds:>8.1f} s")
    with Workers(1):
        prompt = tokenizer.encode("The ")[None]
        ids = model.generate(prompt, do_sample=True, temperature=0.8, max_new_tokens=300, seed=arguments.seed)
    print(f"\na sample\n{tokenizer.decode(ids[0])}")


if __name__ == "__main__":
    main()
