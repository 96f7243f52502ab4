"""What the settings of all pretrained families share: the entries of a `config.json`, read, checked and written."""

from dataclasses import asdict, dataclass, field, fields, replace
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

import numpy as np

from numtx.functional.door import count, positive, rate

# Transformers' name of an activation -> ours. `gelu` is exact; what was trained with the other is off by 1e-3.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
# An activation of ours -> the gate with it, in a feed-forward network with two ways up.
GATES = {"silu": "swiglu", "gelu": "geglu", "gelu_tanh": "geglu_tanh"}
# Entries of the file that say how it was written, not what the model is.
_OF_THE_FILE = ("model_type", "transformers_version", "dtype", "torch_dtype", "label2id", "num_labels")
_OF_A_CLASSIFIER = ("num_labels", "label2id")  # what may be asked for, and stands in `id2label`
_MOST_LABELS = 1_000_000
_LARGEST: dict[Any, float] = {int: 2**62, float: float(np.finfo(np.float64).max)}  # Python's own have no end
_KINDS: dict[
    Any, tuple[str, tuple[Any, ...]]
] = {  # what a setting of a type is called, and what it may be; True is no number
    int: ("a whole number", (int, np.integer)),
    float: ("a finite number", (int, float, np.integer, np.floating)),
    bool: ("True or False", (bool, np.bool_)),
    str: ("text", (str,)),
    list: ("a list", (list, tuple)),
    dict: ("a dict", (dict,)),
    NoneType: ("None", (NoneType,)),
}


@dataclass(kw_only=True)
class PretrainedConfig:
    """The settings that every family has, by the names of `config.json`.

    A family adds its own as fields, and says in the class variables what they must be. Beside that each is of the kind
    of its annotation: the text "false" is no bool, True no number. Whether a token id is in the vocabulary is not
    asked: files on the hub have -1 for none, small models often name an end that they never write, and Transformers
    opens both. `generate` refuses an end below 0.

    Attributes
    ----------
    pad_token_id, bos_token_id, eos_token_id : int, list of int or None
    tie_word_embeddings : bool
        Whether the head of a language model is the embedding's table.
    problem_type : "regression", "single_label_classification", "multi_label_classification" or None
        What a sequence classifier learns; None: as its labels look.
    id2label : dict of int to str or None
        The names of the classes; None means two.
    architectures : list of str or None
        The classes that the weights were saved from.
    other : dict
        Entries that do not bear on the computation, kept for those who read them, and written again.
    """

    model_type: ClassVar[str]
    required: ClassVar[tuple[str, ...]] = ()  # entries without which a file says too little; all others have defaults
    sizes: ClassVar[tuple[str, ...]] = ()  # settings that are whole numbers from 1
    rates: ClassVar[tuple[str, ...]] = ()  # settings in [0, 1)
    positives: ClassVar[tuple[str, ...]] = ()  # settings that are finite numbers of at least 0
    layers: ClassVar[tuple[str, ...]] = ()  # settings that count layers, each of which has arrays
    matrices: ClassVar[tuple[tuple[str, ...], ...]] = ()  # sizes of arrays that a file holds
    activations: ClassVar[tuple[str, ...]] = ()  # settings that name an activation

    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    problem_type: str | None = None
    id2label: dict[int, str] | None = None
    architectures: list[str] | None = field(default=None, compare=False)
    other: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self):
        name = type(self).__name__
        count(name, 1, **{size: getattr(self, size) for size in self.sizes})
        for setting in self.rates:
            if getattr(self, setting) is not None or getattr(type(self), setting) is not None:  # None where it may be
                rate(name, setting, getattr(self, setting))
        positive(name, **{setting: getattr(self, setting) for setting in (*self.positives, "initializer_range")})
        for setting in self.activations:
            self.activation_of(setting)
        for setting, kinds in _annotated(type(self)).items():
            if not any(_is(getattr(self, setting), kind) for kind in kinds):
                expected = " or ".join(_called(kind) for kind in kinds)
                raise ValueError(f"{name}: expected {setting} as {expected}, got {shortened(getattr(self, setting))}")
        if self.id2label is not None and not self.id2label:
            raise ValueError(f"{name}: expected an id2label of one class or more, got none")

    def changed(self, **settings) -> Self:
        """Return a copy with other settings, among them `num_labels` and `label2id`, by which a classifier is made.

        Examples
        --------
        >>> PretrainedConfig(problem_type="regression").changed(num_labels=1).id2label
        {0: 'LABEL_0'}
        """
        name = type(self).__name__
        if unknown := [setting for setting in settings if setting not in self.settings()]:
            known = ", ".join(self.settings())
            raise ValueError(f"{name}: expected settings of {known}, got {', '.join(unknown)}")
        said, number, by_name = (settings.pop(key, None) for key in ("id2label", *_OF_A_CLASSIFIER))
        if said is None and by_name is not None:
            said = {i: label for label, i in by_name.items()} if isinstance(by_name, dict) else by_name
        if said is not None or (number is not None and number != self.num_labels):
            labels = settings["id2label"] = _labels(name, {"id2label": said, "num_labels": number})
            if by_name is not None and by_name != {label: i for i, label in (labels or {}).items()}:
                raise ValueError(f"{name}: expected label2id as id2label turned round, got {shortened(by_name)}")
        return replace(self, **settings) if settings else self

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """Return the names of what `changed` takes."""
        return (*(one.name for one in fields(cls) if one.name not in ("other", "architectures")), *_OF_A_CLASSIFIER)

    def activation_of(self, setting: str) -> str:
        """Return the name in `numtx.functional` of the activation that a setting names."""
        said = getattr(self, setting)
        if not isinstance(said, str) or said not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"{type(self).__name__}: expected {setting} to be one of {known}, got {shortened(said)}")
        return ACTIVATIONS[said]

    @property
    def num_labels(self) -> int:
        """The classes of a classifier, or the numbers of a regression."""
        return 2 if self.id2label is None else len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        """The classes by name."""
        names = self.id2label or {i: f"LABEL_{i}" for i in range(self.num_labels)}
        return {name: i for i, name in names.items()}

    @property
    def vocabulary(self) -> int:
        """The tokens that the model knows."""
        return self.vocab_size  # type: ignore[attr-defined]

    @property
    def padding_row(self) -> int | None:
        """The row of the embedding that does not learn; older files count it from the end, as -1."""
        pad, size = self.pad_token_id, self.vocab_size  # type: ignore[attr-defined]
        return pad + size if pad is not None and -size <= pad < 0 else pad

    @property
    def context(self) -> int | None:
        """The longest sequence that the model takes; None if there is no limit."""
        return getattr(self, "max_position_embeddings", None)

    def to_dict(self) -> dict[str, Any]:
        """Return the entries of a `config.json` that Transformers opens."""
        entries = asdict(self)
        for name in ("other", "architectures", "id2label", "problem_type"):
            if name == "other" or entries[name] is None:
                del entries[name]
        if self.id2label is not None:
            entries["id2label"] = {str(i): label for i, label in self.id2label.items()}
            entries["label2id"] = self.label2id
        made = {} if self.architectures is None else {"architectures": entries.pop("architectures")}
        return {"model_type": self.model_type, **made, **self.other, **entries}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> Self:
        """Read the entries of a `config.json`.

        Raises
        ------
        ValueError
            If the file is another family's, lacks an entry without which nothing can be computed, or a value is wrong.
        """
        name = cls.__name__
        if entries.get("model_type") != cls.model_type:
            raise ValueError(
                f"{name}: expected model_type {cls.model_type!r}, got {shortened(entries.get('model_type'))}"
            )
        entries = cls.read(dict(entries))
        if lacking := [key for key in cls.required if entries.get(key) is None]:
            raise ValueError(
                f"{name}: expected the entries {', '.join(cls.required)}, got none of {', '.join(lacking)}"
            )
        known = {one.name for one in fields(cls)} - {"other", "id2label"}
        settings = {key: value for key, value in entries.items() if key in known}
        other = {key: value for key, value in entries.items() if key not in (*known, *_OF_THE_FILE, "id2label")}
        return cls(**settings, id2label=_labels(name, entries), other=other)

    @classmethod
    def read(cls, entries: dict[str, Any]) -> dict[str, Any]:
        """Bring the entries of a file to the names and forms of the fields; older and newer spellings are met here."""
        return entries


def _labels(name: str, entries: dict[str, Any]) -> dict[int, str] | None:
    """Return the names of the classes, in their order."""
    said, number = entries.get("id2label"), entries.get("num_labels")
    if number is not None:
        count(name, 1, num_labels=number)
        if number > _MOST_LABELS:
            raise ValueError(f"{name}: expected at most {_MOST_LABELS:,} num_labels, got {number}")
    if said is None:
        return None if number is None else {i: f"LABEL_{i}" for i in range(number)}
    if not isinstance(said, dict) or not all(_is_label_number(i) for i in said):
        raise ValueError(f"{name}: expected id2label as a dict from numbers to names, got {shortened(said)}")
    labels = {int(i): str(label) for i, label in said.items()}
    if sorted(labels) != list(range(len(said))) or not labels:
        raise ValueError(f"{name}: expected id2label from 0 on, each number once, got {shortened(list(said))}")
    if number is not None and number != len(labels):
        raise ValueError(f"{name}: expected num_labels of the {len(labels)} names in id2label, got {number}")
    return dict(sorted(labels.items()))


def _is_label_number(key: Any) -> bool:
    """Whether a key of `id2label` is a number, or one as JSON has it: "7", and not "07"."""
    return _is(key, int) or (isinstance(key, str) and key.isascii() and key.isdigit() and str(int(key[:9])) == key)


def shortened(value: Any) -> str:
    """Return what an error shows of a value that a file holds, which may be long.

    Examples
    --------
    >>> shortened("no")
    "'no'"
    >>> len(shortened("no" * 1000))
    100
    """
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _annotated(config_class: type[PretrainedConfig]) -> dict[str, tuple[Any, ...]]:
    """Return the kinds that each field may be of."""
    hints = get_type_hints(config_class)
    return {
        one.name: get_args(hints[one.name]) if isinstance(hints[one.name], UnionType) else (hints[one.name],)
        for one in fields(config_class)
    }


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; of a list and a dict, each entry."""
    outer, inner = get_origin(kind) or kind, get_args(kind)
    if outer is Any:
        return True
    if isinstance(value, bool | np.bool_) and outer is not bool:
        return False
    if not isinstance(value, _KINDS[outer][1]) or (outer in _LARGEST and not abs(value) <= _LARGEST[outer]):
        return False
    if outer is dict and inner:
        return all(_is(key, inner[0]) and _is(one, inner[1]) for key, one in value.items())
    return all(_is(one, inner[0]) for one in value) if outer is list and inner else True


def _called(kind: Any) -> str:
    """What a kind is called in an error."""
    outer, inner = get_origin(kind) or kind, [one for one in get_args(kind) if one is not Any]
    return _KINDS[outer][0] + (f" of {' to '.join(one.__name__ for one in inner)}" if inner else "")
