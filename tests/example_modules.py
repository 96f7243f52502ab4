"""An example as a module, for the tests in tests/examples, whose conftest puts the folder on the path."""

import importlib
import importlib.util
import os
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name, *packages):
    """Return the module of an example that needs these packages, or skip the test and say what is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            if os.environ.get("NUMTX_REQUIRE_EXAMPLES"):
                pytest.fail(f"examples/{name}.py needs {package}")
            pytest.skip(f"examples/{name}.py needs {package}: see examples/README.md")
    return importlib.import_module(name)
