"""Figures: small ones in the terminal, and files where matplotlib is installed."""

from numtx.plotting.confusion import save_confusion
from numtx.plotting.curves import save_curves, save_loss_curve
from numtx.plotting.terminal import line_plot

__all__ = ["line_plot", "save_confusion", "save_curves", "save_loss_curve"]
