"""What a prediction is worth: metrics by name, with the names, inputs and results of `evaluate`."""

from numtx.metrics.bootstrap import confidence_intervals
from numtx.metrics.metric import Measured, Metric
from numtx.metrics.registry import METRICS, load

__all__ = ["METRICS", "Measured", "Metric", "confidence_intervals", "load"]
