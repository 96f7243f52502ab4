"""The notebooks print what they show, their exercises are open and their solutions right.

They are run here as plain Python, cell by cell, which needs neither Jupyter nor a kernel; `pytest --nbmake notebooks`
runs them in Jupyter, with the pictures. `python notebooks/execute.py` stores the outputs anew.
"""

import ast
import contextlib
import io
import json
import pathlib
import re

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def tagged(cell, tag):
    return tag in cell["metadata"].get("tags", ())


def stored(cell):
    """What a cell shows, as text."""
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


def printed(cell, names):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(source(cell), cell["id"], "exec"), names)
    return out.getvalue()


def without_noise(text):
    """Errors of rounding, and the last digits of differences, are others on other machines."""
    text = re.sub(r"\b(\d\.\de-(09|1\d)|0\.0e\+00)", "rounding", text)
    return re.sub(r"-?\d+\.\d{6,}", lambda number: f"{float(number[0]):.5g}", text)


@every_notebook
def test_stored_outputs_are_those_of_a_run(path):
    names = {}
    for cell in cells_of(path):
        if cell["cell_type"] != "code" or tagged(cell, "picture"):
            continue
        assert without_noise(printed(cell, names)) == without_noise(stored(cell)), (
            f"{path.name}, cell {cell['id']}: shows what it does not print; run `python notebooks/execute.py`"
        )


@every_notebook
def test_exercises_are_open_and_the_solutions_right(path):
    names, cells = {}, cells_of(path)
    exercises = 0
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if cell["cell_type"] != "code" or tagged(cell, "picture"):
            continue
        printed(cell, names)
        if not tagged(cell, "exercise"):
            continue
        exercises += 1
        assert not names["report"], f"{path.name}, cell {cell['id']}: nothing is left to do"
        (solution,) = SOLUTION.findall(source(following))
        replaced = {node.name for node in ast.parse(solution).body}
        tree = ast.parse(source(cell))
        tree.body = [node for node in tree.body if getattr(node, "name", None) not in replaced]
        exec(compile(solution, f"solution of {cell['id']}", "exec"), names)
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(tree, cell["id"], "exec"), names)
        assert names["report"], f"{path.name}, solution of {cell['id']}:\n{names['report']}"
    assert 1 <= exercises <= 2


@every_notebook
def test_what_is_stored_is_small_and_the_same_everywhere(path):
    notebook, text = json.loads(path.read_text(encoding="utf-8")), path.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert not re.search(r"/home/|/root/|/tmp/|site-packages|0x[0-9a-f]{6}|Traceback", text)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    cells = notebook["cells"]
    assert all(re.fullmatch(r"[a-z0-9-]+", cell["id"]) for cell in cells)
    assert len({cell["id"] for cell in cells}) == len(cells)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "not run from top to bottom"
    for cell in cells:
        assert set(cell["metadata"]) <= {"tags"}, f"cell {cell['id']}"
        for output in cell.get("outputs", ()):
            kind = "display_data" if tagged(cell, "picture") else "stream"
            assert output["output_type"] == kind, f"cell {cell['id']}: {output['output_type']}"
            assert output.get("name", "stdout") == "stdout", f"cell {cell['id']}: something went to stderr"
        if tagged(cell, "picture"):
            assert "image/png" in cell["outputs"][0]["data"]


@every_notebook
def test_format(path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is absent: pip install 'numtx[notebooks]'")
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    nbformat.validate(notebook)


def test_the_page_lists_them_in_order():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\S+\.ipynb)\)", page) == [path.name for path in NOTEBOOKS]
