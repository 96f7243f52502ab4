"""METEOR beside its definition, with and without a WordNet; and WordNet's files."""

import random

import pytest

from numtx.metrics import load
from numtx.metrics.wordnet import WordNet

LICENCE = "  1 This is no licence of WordNet 9.1 Copyright, only the line that says its version.\n"
SETS = {
    "noun": [["dog", "domestic_dog", "Canis_familiaris"], ["goose"], ["house", "home"], ["child", "kid"]],
    "verb": [["run", "go"], ["guarantee", "ensure", "insure"], ["go", "leave"]],
    "adj": [["glad(p)", "happy(a)"], ["good"]],
    "adv": [["happily", "gladly"]],
}
EXCEPTIONS = {"noun": "geese goose\nchildren child\n", "verb": "went go\nran run\n", "adj": "better good\n", "adv": ""}


@pytest.fixture
def folder(tmp_path):
    """A WordNet of eleven sets, in the format of the real one."""
    for part, sets in SETS.items():
        data, offsets = LICENCE, {}
        for words in sets:
            offset = len(data.encode())
            for word in words:
                offsets.setdefault(word.partition("(")[0].lower(), []).append(f"{offset:08}")
            entries = " ".join(f"{word} 0" for word in words)
            data += f"{offset:08} 00 {part[0]} {len(words):02x} {entries} 000 | a gloss\n"
        lines = [f"{w} {part[0]} {len(o)} 1 @ {len(o)} 0 {' '.join(o)}  \n" for w, o in sorted(offsets.items())]
        (tmp_path / f"data.{part}").write_text(data, newline="")
        (tmp_path / f"index.{part}").write_text(LICENCE + "".join(lines), newline="")
        (tmp_path / f"{part}.exc").write_text(EXCEPTIONS[part], newline="")
    return tmp_path


def names(wordnet, word):
    return [[lemma.name() for lemma in synset.lemmas()] for synset in wordnet.synsets(word)]


def test_words_are_found_by_themselves_their_endings_and_their_exceptions(folder):
    wordnet = WordNet(folder)
    assert wordnet.label == "9.1"
    dogs = [["dog", "domestic_dog", "Canis_familiaris"]]
    assert names(wordnet, "dog") == names(wordnet, "dogs") == names(wordnet, "Dogs") == dogs
    assert names(wordnet, "geese") == [["goose"]]
    assert names(wordnet, "homes") == [["house", "home"]]
    assert names(wordnet, "went") == names(wordnet, "goes") == [["run", "go"], ["go", "leave"]]
    assert names(wordnet, "insuring") == names(wordnet, "ensured") == [["guarantee", "ensure", "insure"]]
    assert names(wordnet, "happy") == [["glad", "happy"]]  # the mark of where it may stand is no part of it
    assert names(wordnet, "gladly") == [["happily", "gladly"]]
    assert names(wordnet, "xyzzy") == names(wordnet, "") == names(wordnet, "s") == []


def test_a_folder_may_lack_the_exceptions(folder):
    (folder / "noun.exc").unlink()
    wordnet = WordNet(folder)
    assert wordnet.label == "9.1 without exceptions"
    assert names(wordnet, "geese") == []
    assert names(wordnet, "dogs") != []


def test_a_package_may_have_them_one_folder_below(folder, tmp_path_factory):
    package = tmp_path_factory.mktemp("package")
    folder.rename(package / "dict")
    assert names(WordNet(package), "goose") == [["goose"]]


def test_broken_files_are_refused(folder):
    (folder / "data.verb").write_text(LICENCE + "junk\n")
    with pytest.raises(ValueError, match=r"^meteor: expected the files of WordNet in .*, got a broken data\.verb$"):
        WordNet(folder).synsets("go")
    (folder / "index.adv").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"got a broken index\.adv$"):
        WordNet(folder)
    (folder / "index.adv").write_text("happily r\n")
    with pytest.raises(ValueError, match=r"got a broken index\.adv$"):
        WordNet(folder).synsets("happily")
    (folder / "data.adj").write_text("")
    with pytest.raises(ValueError, match=r"got some without its version$"):
        WordNet(folder)
    (folder / "data.noun").unlink()
    with pytest.raises(ValueError, match=r"got no data\.noun$"):
        WordNet(folder)


# --- METEOR ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nltk():
    return pytest.importorskip("nltk", reason="no nltk: pip install 'numtx[metrics]'")


def definition(text, reference, wordnet=None, alpha=0.9, beta=3, gamma=0.5):
    """METEOR of two lists of words: stages of matches from the end backwards, each over what the last one left."""
    from nltk.stem.porter import PorterStemmer

    stem = PorterStemmer().stem

    def synonyms(word):
        sets = names(wordnet, word) if wordnet else []
        return {word, *(one for words in sets for one in words if "_" not in one)}

    text, reference = [word.lower() for word in text], [word.lower() for word in reference]
    partner, taken = {}, set()
    # What the second stage leaves is stems: so "house" (hous) is no synonym of "home" here, as it is in Java's METEOR.
    for same in (
        lambda a, b: a == b,
        lambda a, b: stem(a) == stem(b),
        lambda a, b: stem(b) in synonyms(stem(a)),
    ):
        for i in reversed(range(len(text))):
            for j in reversed(range(len(reference))):
                if i not in partner and j not in taken and same(text[i], reference[j]):
                    partner[i] = j
                    taken.add(j)
    if not partner:
        return 0.0
    precision, recall = len(partner) / len(text), len(partner) / len(reference)
    chunks = sum(partner.get(i - 1) != j - 1 for i, j in partner.items())
    f = precision * recall / (alpha * precision + (1 - alpha) * recall)
    return f * (1 - gamma * (chunks / len(partner)) ** beta)


@pytest.mark.parametrize("given", [False, True])
def test_it_is_its_definition(nltk, folder, given):
    rng = random.Random(3)
    pool = [
        "dog",
        "dogs",
        "house",
        "home",
        "homes",
        "run",
        "ran",
        "runs",
        "went",
        "go",
        "leaves",
        "ensure",
        "ensured",
        "a",
    ]
    pool += ["guarantees", "happy", "glad", "good", "better", "the", "the", "The", "kid", "kids", "child", "children"]
    pool += ["Größe", "naïve", "insured", "insur", "gladly", "happily"]
    wordnet = WordNet(folder) if given else None
    differ = 0
    for _ in range(300):
        text, *several = ([rng.choice(pool) for _ in range(rng.randint(0, 9))] for _ in range(rng.randint(2, 4)))
        settings = rng.choice(({}, {"alpha": 0.5, "beta": 1.5, "gamma": 0.3}))
        found = load("meteor").compute(
            predictions=[" ".join(text)],
            references=[[" ".join(one) for one in several]],
            wordnet=folder if given else None,
            **settings,
        )["meteor"]
        assert found == pytest.approx(max(definition(text, one, wordnet, **settings) for one in several), rel=1e-12)
        differ += found != pytest.approx(max(definition(text, one, None, **settings) for one in several), rel=1e-12)
    assert (differ > 50) == given


def test_published_example(nltk):
    found = load("meteor").compute(
        predictions=["It is a guide to action which ensures that the military always obeys the commands of the party"],
        references=["It is a guide to action that ensures that the military will forever heed Party commands"],
    )
    assert round(found["meteor"], 4) == 0.6944  # the same with WordNet: nothing in it is a synonym


def test_the_signature_says_which_stages(nltk, folder):
    given = {"predictions": ["a kid"], "references": ["a child"]}
    without, with_it = load("meteor").compute(**given), load("meteor").compute(**given, wordnet=folder)
    assert without["signature"].startswith(
        "stages:exact,stem|wordnet:none|alpha:0.9|beta:3|gamma:0.5|tok:treebank|nltk:"
    )
    assert with_it["signature"].startswith("stages:exact,stem,synonym|wordnet:9.1|")
    assert without["meteor"] < with_it["meteor"]
    again = load("meteor").compute(**given, wordnet=WordNet(folder), tokenizer=str.split)
    assert again["meteor"] == with_it["meteor"]
    assert "synonym|wordnet:WordNet|" in again["signature"]
    assert "|tok:split|" in again["signature"]


def test_bad_input(nltk, tmp_path):
    for changed, words in (
        ({"wordnet": tmp_path}, "the files of WordNet in .*, got no data.noun, data.verb"),
        ({"wordnet": 3}, "a folder of WordNet or an object with synsets, got int"),
        ({"alpha": -1}, "alpha as a number, got -1"),
        ({"beta": "3"}, "beta as a number, got '3'"),
        ({"tokenizer": "moses"}, "a tokenizer that makes words of a text, got str"),
        ({"predictions": [["a"]]}, "a text as prediction 0, got list"),
    ):
        with pytest.raises(ValueError, match=rf"^meteor: expected {words}"):
            load("meteor").compute(**{"predictions": ["a"], "references": ["a"], **changed})
