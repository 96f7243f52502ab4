"""A missing extra is named with the command that brings it; what breaks inside a package is not disguised."""

import sys

import pytest

from numtx.checkpoints.extras import need


def test_what_is_there_is_imported():
    assert need("json.decoder", extra="hub") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_what_is_absent_is_named(module):
    with pytest.raises(ImportError, match=r"the package no_such_package, .*: pip install 'numtx\[plots\]'$") as raised:
        need(module, extra="plots")
    assert raised.value.name == "no_such_package"


def test_what_a_package_lacks_itself_passes_through(tmp_path, monkeypatch):
    (tmp_path / "half_a_package.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_dependency'$"):
        need("half_a_package", extra="hub")
