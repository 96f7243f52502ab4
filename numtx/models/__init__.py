"""Whole architectures: config, wiring from components, and the names that checkpoints give the parameters."""

from numtx.models.gpt2 import GPT2Config, GPT2LMHeadModel
from numtx.models.output import CausalLMOutput

__all__ = ["CausalLMOutput", "GPT2Config", "GPT2LMHeadModel"]
