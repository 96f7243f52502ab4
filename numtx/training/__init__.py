"""Training: optimizers over flat buffers, schedules, gradients in shards, and a trainer that can be resumed."""

from numtx.training.allocator import keep_freed_memory
from numtx.training.callbacks import Callback, StepReport, TrainingResult
from numtx.training.clip import clip_grad_norm, gradient_norm
from numtx.training.config import TrainingConfig
from numtx.training.evaluation import Evaluation, evaluate
from numtx.training.flat import FlatGradients, FlatParameters, decayed_by_default
from numtx.training.mpi import Alone, RankError, Ranks, found_ranks, world
from numtx.training.nonfinite import NonFiniteError
from numtx.training.optimizers import SGD, Adam, AdamW, Optimizer
from numtx.training.resume import refuse_changes
from numtx.training.run import Run, load_run
from numtx.training.run_folder import RunFolder
from numtx.training.schedules import constant, cosine, linear
from numtx.training.sharding import ShardedGradients
from numtx.training.threads import Workers, available_threads
from numtx.training.trainer import Trainer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Alone",
    "Callback",
    "Evaluation",
    "FlatGradients",
    "FlatParameters",
    "NonFiniteError",
    "Optimizer",
    "RankError",
    "Ranks",
    "Run",
    "RunFolder",
    "ShardedGradients",
    "StepReport",
    "Trainer",
    "TrainingConfig",
    "TrainingResult",
    "Workers",
    "available_threads",
    "clip_grad_norm",
    "constant",
    "cosine",
    "decayed_by_default",
    "evaluate",
    "found_ranks",
    "gradient_norm",
    "keep_freed_memory",
    "linear",
    "load_run",
    "refuse_changes",
    "world",
]
