"""Generation over anything that has a decoding step: settings, what changes scores, greedy, sampling, beams."""

from numtx.generation.choose import choose
from numtx.generation.config import GenerationConfig
from numtx.generation.generate import generate, stream
from numtx.generation.loop import sample, write
from numtx.generation.output import GenerateOutput
from numtx.generation.plan import Plan, Surroundings, make_plan
from numtx.generation.processors import Processor, Processors
from numtx.generation.sampling import Sampler, filter_logits
from numtx.generation.steps import DecodingStep, ReorderableStep
from numtx.generation.stopping import Criterion, Stopping

__all__ = [
    "Criterion",
    "DecodingStep",
    "GenerateOutput",
    "GenerationConfig",
    "Plan",
    "Processor",
    "Processors",
    "ReorderableStep",
    "Sampler",
    "Stopping",
    "Surroundings",
    "choose",
    "filter_logits",
    "generate",
    "make_plan",
    "sample",
    "stream",
    "write",
]
