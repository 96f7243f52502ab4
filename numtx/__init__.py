"""numtx: the transformer you can check. Every component, forward and hand-derived backward, in plain NumPy."""

from numtx._version import __version__

__all__ = ["__version__"]
