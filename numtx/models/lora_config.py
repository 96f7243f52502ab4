"""The settings of LoRA, by PEFT's names: what stands in an `adapter_config.json`."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from numtx.functional.door import count, nearest, rate

NAME = "LoraConfig"
TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
STARTS = (True, False, "gaussian", "eva", "orthogonal")  # those that leave the base as it is; others change it
# What files say of how an adapter was made or is to be loaded, and not of what it computes: it may have any value.
# Whatever else is not known here must not be set.
PASSED_OVER = (
    "auto_mapping", "bias", "corda_config", "ensure_weight_tying", "eva_config", "fan_in_fan_out", "inference_mode",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_ga_config", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "revision", "runtime_config",
)  # fmt: skip


@dataclass
class LoraConfig:
    """What LoRA is put beside, and how strong it is. The names are PEFT's, and modules are called as in Transformers.

    Attributes
    ----------
    r : int
        The rank.
    target_modules : list of str, str, or None
        Names of modules or ends of their dotted names ("query", "attn.c_attn"), a regular expression for whole dotted
        names, or "all-linear": every linear map but the head. None: what PEFT takes for the family, queries and values.
    lora_alpha : float
        The update is scaled by lora_alpha / r.
    lora_dropout : float
        Of what goes into the update.
    modules_to_save : list of str or None
        Modules that are trained in full and saved with the adapter. None: none; but the head of a classifier or of a
        model for questions always is, since it is new.
    use_rslora : bool
        Scale by lora_alpha / √r.
    rank_pattern, alpha_pattern : dict of regular expression to number
        Other ranks and alphas, for modules whose dotted name ends so. `add_adapter` refuses one that matches nothing;
        in a file it is passed over, as PEFT does.
    exclude_modules : list of str, str, or None
        Modules that are no targets.
    task_type : str or None
        PEFT's name of the task; the model's if None.
    base_model_name_or_path : str or None
        What the adapter belongs to; what the model was opened from if None.
    init_lora_weights : True or False or "gaussian"
        How a new adapter starts: A by Kaiming's rule and B zero; B drawn too, to see an effect at once; A from
        N(0, 1/r²). "eva" and "orthogonal" are read from files.

    Examples
    --------
    >>> LoraConfig(r=4, target_modules=["query", "value"]).lora_alpha
    8
    """

    r: int = 8
    target_modules: list[str] | str | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    modules_to_save: list[str] | None = None
    use_rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    exclude_modules: list[str] | str | None = None
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    init_lora_weights: bool | str = True

    def __post_init__(self):
        rate(NAME, "lora_dropout", self.lora_dropout)
        for name in ("target_modules", "exclude_modules", "modules_to_save"):
            setattr(self, name, _names(name, getattr(self, name)))
        for name in ("rank_pattern", "alpha_pattern"):
            pattern = {} if getattr(self, name) is None else getattr(self, name)
            if not isinstance(pattern, dict) or not all(isinstance(key, str) for key in pattern):
                raise ValueError(f"{NAME}: expected {name} as a dict of text to number, got {pattern!r}")
            for key in pattern:
                try:
                    re.compile(key)
                except re.error as error:
                    raise ValueError(f"{NAME}: expected a regular expression in {name}, got {key!r}: {error}") from None
            setattr(self, name, dict(pattern))
        count(NAME, 1, r=self.r, **{f"rank of {key}": rank for key, rank in self.rank_pattern.items()})
        self.r, self.rank_pattern = int(self.r), {key: int(rank) for key, rank in self.rank_pattern.items()}
        for name, alpha in {"lora_alpha": self.lora_alpha, **self.alpha_pattern}.items():
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
                raise ValueError(f"{NAME}: expected {name} as a positive number, got {alpha!r}")
        if self.task_type is not None and self.task_type not in TASKS:
            raise ValueError(f"{NAME}: expected a task_type of {', '.join(TASKS)}, got {self.task_type!r}")
        if not isinstance(self.use_rslora, bool):
            raise ValueError(f"{NAME}: expected use_rslora True or False, got {self.use_rslora!r}")
        if not isinstance(self.init_lora_weights, bool | str) or self.init_lora_weights not in STARTS:
            raise ValueError(
                f"{NAME}: expected init_lora_weights of {', '.join(map(str, STARTS))}, which leave the base as it is, "
                f"got {self.init_lora_weights!r}"
            )

    def rank(self, module: str) -> int:
        """Return the rank of a module, by its dotted name."""
        return self.rank_pattern.get(_pattern(self.rank_pattern, module), self.r)

    def alpha(self, module: str) -> float:
        """Return the alpha of a module, by its dotted name."""
        return self.alpha_pattern.get(_pattern(self.alpha_pattern, module), self.lora_alpha)

    def check_patterns(self, owner: str, modules: Iterable[str]) -> None:
        """Require each pattern to match one of the modules that are to have an update, by their dotted names."""
        modules = list(modules)
        for name in ("rank_pattern", "alpha_pattern"):
            for key in getattr(self, name):
                if not any(_fits(key, module) for module in modules):
                    lasts = list(dict.fromkeys(module.rpartition(".")[2] for module in modules))
                    raise ValueError(
                        f"{owner}: expected {name} among {', '.join(lasts)}, got {key!r}{nearest(key, lasts)}"
                    )

    def to_dict(self, **changes) -> dict[str, Any]:
        """Return the entries of an `adapter_config.json`."""
        others = {"peft_type": "LORA", "bias": "none", "fan_in_fan_out": False, "inference_mode": True}
        return dict(sorted((others | asdict(self) | changes).items()))

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> Self:
        """Read the entries of an `adapter_config.json`.

        Raises
        ------
        ValueError
            If it is another kind of adapter, or says something that changes what is computed and is not known here.
        """
        if entries.get("peft_type") != "LORA":
            raise ValueError(f"{NAME}: expected peft_type 'LORA', got {entries.get('peft_type')!r}")
        if entries.get("bias", "none") != "none":
            raise ValueError(f"{NAME}: expected bias 'none', got {entries['bias']!r}")
        known = {one.name for one in fields(cls)}
        for name, value in entries.items():
            if value and name not in known and name not in PASSED_OVER:
                raise ValueError(f"{NAME}: expected no {name}, got {value!r:.80}{nearest(name, known)}")
        return cls(**{name: value for name, value in entries.items() if name in known and value is not None})


def _names(name, said):
    if said is None or (isinstance(said, str) and said and name != "modules_to_save"):
        return said
    try:
        names = [said] if isinstance(said, str) else list(said)
    except TypeError:
        names = [None]
    if not all(isinstance(one, str) and one for one in names) or (not names and name == "target_modules"):
        raise ValueError(f"{NAME}: expected {name} as names of modules, got {said!r}")
    return names


def _pattern(patterns, module):
    """The first pattern that fits, as PEFT finds it."""
    return next((key for key in patterns if _fits(key, module)), "")


def _fits(pattern, module):
    return re.match(rf"(.*\.)?({pattern})$", module) is not None
