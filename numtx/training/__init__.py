"""Training: optimizers over flat buffers, schedules, gradients in shards, and a loop that can be resumed."""

from numtx.training.allocator import keep_freed_memory
from numtx.training.arguments import Seq2SeqTrainingArguments, TrainingArguments
from numtx.training.callbacks import Callback, StepReport, TrainingResult
from numtx.training.clip import clip_grad_norm, gradient_norm
from numtx.training.config import TrainingConfig
from numtx.training.evaluation import Evaluation, evaluate
from numtx.training.flat import FlatGradients, FlatParameters, decayed_by_default, rates_by_pattern
from numtx.training.loop import TrainingLoop
from numtx.training.lr_scheduler import get_scheduler
from numtx.training.mpi import Alone, RankError, Ranks, found_ranks, world
from numtx.training.nonfinite import NonFiniteError
from numtx.training.optimizers import SGD, Adam, AdamW, Optimizer
from numtx.training.plan import TrainingPlan
from numtx.training.resume import refuse_changes
from numtx.training.run import Run, load_run
from numtx.training.run_folder import RunFolder
from numtx.training.schedules import constant, cosine, linear
from numtx.training.sharding import ShardedGradients
from numtx.training.threads import Workers, available_threads
from numtx.training.trainer import Seq2SeqTrainer, Trainer
from numtx.training.trainer_callbacks import (
    DefaultFlowCallback,
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)
from numtx.training.trainer_state import EvalPrediction, PredictionOutput, TrainerControl, TrainerState, TrainOutput
from numtx.training.weight_groups import get_decay_parameter_names

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Alone",
    "Callback",
    "DefaultFlowCallback",
    "EarlyStoppingCallback",
    "EvalPrediction",
    "Evaluation",
    "FlatGradients",
    "FlatParameters",
    "NonFiniteError",
    "Optimizer",
    "PredictionOutput",
    "PrinterCallback",
    "ProgressCallback",
    "RankError",
    "Ranks",
    "Run",
    "RunFolder",
    "Seq2SeqTrainer",
    "Seq2SeqTrainingArguments",
    "ShardedGradients",
    "StepReport",
    "TrainOutput",
    "Trainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
    "TrainingConfig",
    "TrainingLoop",
    "TrainingPlan",
    "TrainingResult",
    "Workers",
    "available_threads",
    "clip_grad_norm",
    "constant",
    "cosine",
    "decayed_by_default",
    "evaluate",
    "found_ranks",
    "get_decay_parameter_names",
    "get_scheduler",
    "gradient_norm",
    "keep_freed_memory",
    "linear",
    "load_run",
    "rates_by_pattern",
    "refuse_changes",
    "world",
]
