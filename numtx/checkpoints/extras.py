"""Packages that are not always installed: imported where they are used, and named when they are absent."""

import importlib
from types import ModuleType


def need(module: str, *, extra: str) -> ModuleType:
    """Import a module that one of numtx's extras brings.

    Parameters
    ----------
    module : str
        What to import, such as ``tokenizers`` or ``huggingface_hub.errors``.
    extra : str
        The extra of numtx that lists its package.

    Raises
    ------
    ImportError
        If the package is not installed; in one line, with the command that brings it. What a package that is there
        cannot import itself passes through as it is.

    Examples
    --------
    >>> need("json", extra="hub").loads("[1]")
    [1]
    >>> need("no_such_package", extra="hub")
    Traceback (most recent call last):
    ImportError: numtx: expected the package no_such_package, which is not installed: pip install 'numtx[hub]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        package = module.partition(".")[0]
        raise ImportError(
            f"numtx: expected the package {package}, which is not installed: pip install 'numtx[{extra}]'",
            name=package,
        ) from None
