"""Tables on disk: what is read of CSV, JSON and text, and one clear error for what cannot be."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import one_line

from numtx.text import Dataset, as_dataset, read_csv, read_data, read_json_rows


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_cells_with_quotes_line_ends_and_other_alphabets(tmp_path):
    content = '\ufefftext,n\r\n"a ""quoted"", cell",1\r\n"two\r\nlines",2\r\n\r\nÉcole 東京 🙂,3\r\n'
    assert read_csv(written(tmp_path, "a.csv", content)) == {
        "text": ['a "quoted", cell', "two\r\nlines", "École 東京 🙂"],
        "n": [1, 2, 3],
    }


def test_csv_types_follow_whole_columns(tmp_path):
    content = "i,f,id,gap,big,neg,mixed\n1,0.5,007,1,123456789012345678901,-3,1\n2,1e-3,008,,2,-4,x\n"
    assert read_csv(written(tmp_path, "a.csv", content)) == {
        "i": [1, 2],
        "f": [0.5, 0.001],
        "id": ["007", "008"],
        "gap": ["1", ""],
        "big": ["123456789012345678901", "2"],
        "neg": [-3, -4],
        "mixed": ["1", "x"],
    }
    zeros = read_csv(written(tmp_path, "b.csv", "n\n-0\n1\n"))["n"]
    assert [str(zero) for zero in zeros] == ["-0.0", "1.0"]
    typed = read_csv(written(tmp_path, "a.csv", content), column_types={"i": str, "id": int})
    assert (typed["i"], typed["id"]) == (["1", "2"], [7, 8])


def test_other_encodings(tmp_path):
    path = written(tmp_path, "a.csv", "text\nnaïve\n".encode("latin-1"))
    assert read_csv(path, encoding="latin-1")["text"] == ["naïve"]
    assert read_data(path, encoding_errors="replace")["text"] == ["na\ufffdve"]
    with one_line(".*byte 0xef at offset 7 of"):
        read_csv(path)
    for settings in ({"encoding": "klingon"}, {"encoding_errors": "forgive"}):
        with one_line(".*expected an encoding and encoding_errors that Python knows, got: unknown"):
            read_csv(path, **settings)
    rows = written(tmp_path, "a.jsonl", '{"text": "naïve"}'.encode("utf-16"))
    assert read_json_rows(rows, encoding="utf-16")["text"] == ["naïve"]
    lines = written(tmp_path, "a.txt", "naïve".encode("latin-1"))
    assert Dataset.from_text(lines, encoding="latin-1")["text"] == ["naïve"]


@given(data=st.binary(max_size=60), places=st.lists(st.integers(0, 200), max_size=6))
def test_mutated_files_are_read_or_refused(tmp_path_factory, data, places):
    whole = {
        "a.csv": b'text,label\n"a, b",1\nc,0\n',
        "a.json": b'[{"text": "a", "label": 1}, {"text": "b", "label": 0}]',
        "a.jsonl": b'{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n',
    }
    folder = tmp_path_factory.mktemp("mutated")
    for name, content in whole.items():
        changed = bytearray(content)
        for place, byte in zip(places, data, strict=False):
            changed[place % len(changed)] = byte
        path = written(folder, name, bytes(changed))
        try:
            columns = read_data(path)
        except ValueError as error:
            message = str(error)
        else:
            message = ""
            assert len({len(values) for values in columns.values()}) <= 1
        assert "\n" not in message


def test_tables_with_tabs_and_without_header(tmp_path):
    assert read_data(written(tmp_path, "a.tsv", "a\tb\n1,5\t2\n")) == {"a": ["1,5"], "b": [2]}
    assert read_csv(written(tmp_path, "a.csv", "1;x\n2;y\n"), delimiter=";", column_names=["n", "s"]) == {
        "n": [1, 2],
        "s": ["x", "y"],
    }
    long = "w" * 200_000
    assert read_csv(written(tmp_path, "a.csv", f"text\n{long}\n"))["text"] == [long]


def test_json_in_lines_lists_and_fields(tmp_path):
    rows = {"text": ["é\u2028", "b"], "tags": [[1], []]}
    lines = '{"text": "é\u2028", "tags": [1]}\n\n{"text": "b", "tags": []}\n'
    whole = '[{"text": "é\u2028", "tags": [1]}, {"text": "b", "tags": []}]'
    assert read_json_rows(written(tmp_path, "a.jsonl", lines)) == rows
    assert read_json_rows(written(tmp_path, "a.json", lines)) == rows
    assert read_data(written(tmp_path, "a.json", whole)) == rows
    assert Dataset.from_json(written(tmp_path, "a.json", f'{{"data": {whole}}}'), field="data")[:] == rows


def test_text_by_line_paragraph_and_document(tmp_path):
    path = written(tmp_path, "a.txt", "one\r\ntwo\r\n\r\n\r\nthree\u2028still three")
    assert Dataset.from_text(path)["text"] == ["one", "two", "", "", "three\u2028still three"]
    assert Dataset.from_text(path, sample_by="paragraph")["text"] == ["one\ntwo", "three\u2028still three"]
    assert Dataset.from_text(path, sample_by="document").num_rows == 1
    for how in ("line", "paragraph", "document"):
        assert len(Dataset.from_text(written(tmp_path, "b.txt", ""), sample_by=how)) == 0


BROKEN = [
    ("a.csv", "", "expected a header in"),
    ("a.csv", "a,b\n1,2\n3\n", "expected 2 cells (a, b) in line 3 of"),
    ("a.csv", 'a,b\n"1\n2",2,3\n', "in line 3 of"),
    ("a.csv", "a,a\n1,2\n", "got 'a' twice"),
    ("a.csv", "a,\n1,2\n", "got ''"),
    ("a.csv", 'a,"b\nc"\n1\n', "a line of text, each once"),
    ("a.csv", 'a\n"open\n', "expected CSV in line 2"),
    ("a.csv", b"a\n\xff\n", "byte 0xff at offset 2"),
    ("a.jsonl", '{"a": 1}\n{"a": \n', "expected JSON in line 2 of"),
    ("a.jsonl", '{"a": NaN}\n', "NaN, which is no number of JSON"),
    ("a.jsonl", '{"a": 1}\n{"b": 1}\n', "expected the columns a in row 1, got none of a"),
    ("a.jsonl", "3\n", "expected rows that are dicts, got int as row 0"),
    ("a.json", "[" * 100_000, "too many brackets"),
    ("a.json", '[{"a": 1}, [2]]', "got list as row 1"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_broken_files(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with one_line(f".*{re.escape(message)}"):
        read_data(path)
    with one_line(f".*{re.escape(path.name)}"):
        read_data(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delimiter": "::"}, "delimiter of one character"),
        ({"column_types": {"c": int}}, "expected columns a, b"),
        ({"column_types": {"b": int}}, "expected int in column b"),
    ],
)
def test_settings_of_tables(tmp_path, settings, message):
    path = written(tmp_path, "a.csv", "a,b\n1,x\n")
    with pytest.raises(ValueError, match=message):
        read_csv(path, **settings)


def test_settings_of_other_files(tmp_path):
    with pytest.raises(ValueError, match="with 'data' in"):
        read_json_rows(written(tmp_path, "a.json", '{"rows": []}'), field="data")
    with pytest.raises(ValueError, match="sample_by of line, paragraph, document, got 'word'"):
        Dataset.from_text(written(tmp_path, "a.txt", "x"), sample_by="word")
    with pytest.raises(ValueError, match="expected a file for the setting delimiter"):
        as_dataset([{"a": 1}], delimiter=",")
