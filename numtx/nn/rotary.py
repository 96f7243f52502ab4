"""Rotary positions as a component: the settings in one place, for queries and keys alike."""

from numtx import functional as F
from numtx.nn.module import Module


class Rotary(Module):
    """Turn queries or keys (B, H, T, D) by their positions: `F.rotary` with its settings. Nothing is learned.

    An attention that is given one turns its queries and its keys with a copy of it, after the projection and before
    keys go into a cache; never its values. So one may be given to all layers of a stack.

    Parameters
    ----------
    layout : "half" or "interleaved"
    base : float
    width : int or None
        How many of the D numbers are turned; all if None.
    scaling : dict or None
        As in `F.rotary_frequencies`.

    Examples
    --------
    >>> import numpy as np
    >>> Rotary("half")(np.ones((1, 1, 1, 2)), positions=np.array([1])).round(3)
    array([[[[-0.301,  1.382]]]])
    """

    def __init__(self, layout, base=10000.0, width=None, scaling=None):
        if layout not in ("half", "interleaved"):
            raise ValueError(f"Rotary: expected layout 'half' or 'interleaved', got {layout!r}")
        # Refuses what cannot be, here and not later.
        F.rotary_frequencies(2 if width is None else width, base=base, scaling=scaling)
        self.layout, self.base, self.width, self.scaling = layout, base, width, scaling

    def forward(self, x, *, positions=None):
        """Return y like x. `positions` is (T,) or (B, T) and defaults to 0 .. T-1."""
        return F.rotary(x, positions, layout=self.layout, base=self.base, width=self.width, scaling=self.scaling)

    def backward(self, dy, cache):
        return F.rotary_backward(dy, cache), {}

    def extra_repr(self):
        text = f"layout={self.layout!r}, base={self.base:g}"
        text += f", width={self.width}" if self.width is not None else ""
        return text + (f", scaling={self.scaling}" if self.scaling is not None else "")
