"""Tokenizers of the `tokenizers` package, made from the vocabulary files of a family instead of ``tokenizer.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numtx.checkpoints.config import read_json
from numtx.checkpoints.extras import need
from numtx.text.guarded import guarded
from numtx.text.pretrained_files import Settings, text_of
from numtx.text.sentencepiece_model import read_sentencepiece


def word_piece(vocabulary: Path, settings: Settings) -> Any:
    """Return BERT's tokenizer from ``vocab.txt``, one token a line.

    Lower case, accents and Chinese characters are treated as `settings` say.
    """
    tokenizers = need("tokenizers", extra="hub")
    vocab = {token: i for i, token in enumerate(_lines(vocabulary))}
    unknown = text_of(settings.special.get("unk_token", "[UNK]"))
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token=unknown))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(settings.setting("tokenize_chinese_chars")),
        strip_accents=settings.setting("strip_accents"),
        lowercase=bool(settings.setting("do_lower_case")),
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix="##")
    first, last = _needed(vocab, settings, "cls_token", vocabulary), _needed(vocab, settings, "sep_token", vocabulary)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=[f"{first[0]}:0", "$A:0", f"{last[0]}:0"],
        pair=[f"{first[0]}:0", "$A:0", f"{last[0]}:0", "$B:1", f"{last[0]}:1"],
        special_tokens=[first, last],
    )
    return tokenizer


def byte_level(vocabulary: Path, merges: Path, settings: Settings) -> Any:
    """Return a byte-level BPE from ``vocab.json`` and ``merges.txt``: GPT-2's, RoBERTa's, BART's."""
    tokenizers = need("tokenizers", extra="hub")
    vocab = _ids(vocabulary)
    pairs = [tuple(line.split(" ")) for line in _lines(merges) if line and not line.startswith("#version")]
    wrong = next((pair for pair in pairs if len(pair) != 2), None)
    if wrong:
        raise ValueError(f"AutoTokenizer: expected two symbols a line in '{merges}', got {' '.join(wrong)!r}")
    prefix = bool(settings.setting("add_prefix_space"))
    parts = {"continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}
    model = guarded(
        f"AutoTokenizer: expected '{merges}' to fit '{vocabulary}'",
        lambda: tokenizers.models.BPE(vocab, pairs, **parts),
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    if settings.family in ("roberta", "bart"):
        last, first = (
            _needed(vocab, settings, "sep_token", vocabulary),
            _needed(vocab, settings, "cls_token", vocabulary),
        )
        trim = bool(settings.setting("trim_offsets"))
        tokenizer.post_processor = tokenizers.processors.RobertaProcessing(last, first, trim, prefix)
        _mask_takes_space(settings)
    return tokenizer


def t5_pieces(path: Path, settings: Settings) -> Any:
    """Return T5's tokenizer from ``spiece.model``: unigrams, then the sentinels from the last to ``<extra_id_0>``."""
    tokenizers = need("tokenizers", extra="hub")
    model = read_sentencepiece(path)
    if model.kind != "unigram":
        raise ValueError(f"AutoTokenizer: expected a unigram model for T5 in '{path}', got one of type {model.kind}")
    sentinels = [f"<extra_id_{i}>" for i in range(int(settings.setting("extra_ids")))]
    there = {piece for piece, _ in model.pieces}
    pieces = model.pieces + [(token, 0.0) for token in reversed(sentinels) if token not in there]
    whole = f"AutoTokenizer: expected a whole model in '{path}'"
    unigram = guarded(whole, lambda: tokenizers.models.Unigram(pieces, unk_id=model.unk_id, byte_fallback=False))
    tokenizer = tokenizers.Tokenizer(unigram)
    if model.charsmap:
        tokenizer.normalizer = guarded(whole, lambda: tokenizers.normalizers.Precompiled(model.charsmap))
    space = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace(**space)]
    )
    tokenizer.decoder = tokenizers.decoders.Metaspace(**space)
    last = _needed({piece: i for i, (piece, _) in enumerate(pieces)}, settings, "eos_token", path)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=["$A", last[0]], pair=["$A", last[0], "$B", last[0]], special_tokens=[last]
    )
    _add_pieces(settings, model.control, model.user_defined)
    named = {text_of(token) for token in settings.extra}
    settings.extra += [token for token in sentinels if token not in named]
    return tokenizer


def llama_pieces(path: Path, settings: Settings) -> Any:
    """Return Llama's tokenizer from ``tokenizer.model``: BPE over pieces, bytes where a character is unknown."""
    tokenizers = need("tokenizers", extra="hub")
    model = read_sentencepiece(path)
    if model.kind != "bpe":
        raise ValueError(f"AutoTokenizer: expected a BPE model for Llama in '{path}', got one of type {model.kind}")
    vocab = {piece: i for i, (piece, _) in enumerate(model.pieces)}
    unknown = model.pieces[model.unk_id][0]
    bpe = guarded(
        f"AutoTokenizer: expected a whole model in '{path}'",
        lambda: tokenizers.models.BPE(vocab, _merges(vocab), fuse_unk=True, byte_fallback=True, unk_token=unknown),
    )
    tokenizer = tokenizers.Tokenizer(bpe)
    prefix = bool(settings.setting("add_prefix_space"))
    scheme = "never" if not prefix else "always" if settings.setting("legacy") else "first"
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps = [
        tokenizers.decoders.Replace("▁", " "),
        tokenizers.decoders.ByteFallback(),
        tokenizers.decoders.Fuse(),
    ]
    if prefix:
        steps.append(tokenizers.decoders.Strip(content=" ", left=1))
    tokenizer.decoder = tokenizers.decoders.Sequence(steps)
    _add_pieces(settings, model.control, model.user_defined)
    return tokenizer


def begin_and_end(tokenizer: Any, settings: Settings) -> None:
    """Let `tokenizer`, which has no post-processor yet, add the begin and end tokens that the settings ask for."""
    processors = need("tokenizers", extra="hub").processors
    around = {}
    for side, name in (("add_bos_token", "bos_token"), ("add_eos_token", "eos_token")):
        token = settings.special.get(name)
        around[side] = [text_of(token)] if settings.setting(side) and token is not None else []
    bos, eos = around["add_bos_token"], around["add_eos_token"]
    parts = [
        [f"{token}:{i}" for token in bos] + [f"${'AB'[i]}:{i}"] + [f"{token}:{i}" for token in eos] for i in (0, 1)
    ]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=parts[0],
        pair=parts[0] + parts[1],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(bos + eos)],
    )


def _merges(vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the merges that a SentencePiece BPE implies: every cut of a piece in two, in the order of the ids."""
    merges = []
    for piece, rank in vocab.items():
        cuts = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        found = [(vocab[left], vocab[right], left, right) for left, right in cuts if left in vocab and right in vocab]
        merges += [(rank, len(left), len(right), left, right) for _, _, left, right in sorted(found)]
    merges.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in merges]


def _add_pieces(settings: Settings, control: list[str], user_defined: list[str]) -> None:
    known = {text_of(token) for token in [*settings.added, *settings.extra]}
    settings.extra += [token for token in control if token not in known]
    settings.added += [
        {"content": token, "normalized": False, "special": False} for token in user_defined if token not in known
    ]


def _mask_takes_space(settings: Settings) -> None:
    """RoBERTa's mask token stands for a word and the space before it, unless the folder says otherwise."""
    mask = settings.special.get("mask_token")
    if isinstance(mask, str):
        settings.special["mask_token"] = {"content": mask, "lstrip": True, "normalized": False, "special": True}


def _needed(vocab: Mapping[str, int], settings: Settings, name: str, path: Path) -> tuple[str, int]:
    token = text_of(settings.special.get(name, ""))
    if token not in vocab:
        raise ValueError(f"AutoTokenizer: expected the {name} {token!r} in '{path}', got a vocabulary without it")
    return token, vocab[token]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"AutoTokenizer: expected UTF-8 text in '{path}', got: {error}") from None
    # Only line feeds end a line: a vocabulary may well hold other white space as tokens.
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def _ids(path: Path) -> dict[str, int]:
    vocab = read_json(path)
    if not vocab or not all(isinstance(index, int) and 0 <= index < 2**31 for index in vocab.values()):
        raise ValueError(f"AutoTokenizer: expected a table of tokens and ids in '{path}', got {json.dumps(vocab)[:60]}")
    return vocab
