"""Whole architectures: config, wiring from components, and the names that checkpoints give the parameters."""

from numtx.models.decoder_only import DecoderOnlyConfig, DecoderOnlyTransformer
from numtx.models.encoder_decoder import EncoderDecoderConfig, EncoderDecoderTransformer
from numtx.models.encoder_only import EncoderOnlyConfig, EncoderOnlyTransformer
from numtx.models.gpt2 import GPT2Config, GPT2LMHeadModel
from numtx.models.output import CausalLMOutput, LogProbsOutput
from numtx.models.transformer import Transformer

__all__ = [
    "CausalLMOutput",
    "DecoderOnlyConfig",
    "DecoderOnlyTransformer",
    "EncoderDecoderConfig",
    "EncoderDecoderTransformer",
    "EncoderOnlyConfig",
    "EncoderOnlyTransformer",
    "GPT2Config",
    "GPT2LMHeadModel",
    "LogProbsOutput",
    "Transformer",
]
