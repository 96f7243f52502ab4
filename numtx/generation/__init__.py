"""Greedy choice and sampling over anything that has a decoding step."""

from numtx.generation.generate import DecodingStep, generate, stream
from numtx.generation.sampling import Sampler, filter_logits

__all__ = ["DecodingStep", "Sampler", "filter_logits", "generate", "stream"]
