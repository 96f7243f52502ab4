"""`AutoTokenizer`: looks at what lies in a folder and opens the tokenizer that it is."""

import os
from pathlib import Path
from typing import Any

from numtx.checkpoints.adapter_folder import base_of, is_adapter
from numtx.checkpoints.hub_files import TOKENIZER_FILES, TOKENIZER_FORMS
from numtx.text.families import family_name
from numtx.text.marian import MarianTokenizer
from numtx.text.pretrained import PretrainedTokenizer
from numtx.text.pretrained_files import Settings, make_settings, read_settings
from numtx.text.tokenizers_backend import TokenizersBackend, backend_of_json, read_backend, with_prefix_space
from numtx.text.vocabulary_files import begin_and_end, byte_level, llama_pieces, t5_pieces, word_piece

_BYTE_LEVEL = ("gpt2", "roberta", "bart")
_WORD_PIECE = ("bert", "distilbert")


class AutoTokenizer:
    """Opens the tokenizer of a pretrained model; there is nothing to construct."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        **settings: Any,
    ) -> PretrainedTokenizer:
        """Open the tokenizer of a folder, of a GGUF file, or of a name on the hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
            An adapter's folder without a tokenizer stands for the model that it belongs to.
            A folder with ``source.spm``, ``target.spm`` and ``vocab.json`` is Marian's, unless its config names another
            family. Of others ``tokenizer.json`` counts first. Without it: ``spiece.model`` (T5), ``tokenizer.model``
            (Llama), ``vocab.json`` with ``merges.txt`` (GPT-2, RoBERTa, BART), ``vocab.txt`` (BERT, DistilBERT). The
            tokenizers of numtx's own runs open too.
        revision, token, cache_dir, local_files_only
            As in `numtx.checkpoints.hub.resolve`.
        **settings
            Entries that count before those of ``tokenizer_config.json``: ``padding_side="left"``,
            ``pad_token="<pad>"``, ``model_max_length=512``, ``do_lower_case=False`` ... Of a ``tokenizer.json`` those
            of its own steps stay as they are, but ``add_prefix_space``, which lists of words need in a byte-level BPE.

        Returns
        -------
        PretrainedTokenizer

        Raises
        ------
        ValueError
            If no tokenizer is there (the message says what was looked for), or a file is broken.
        ImportError
            If a package of the extra ``hub`` is absent.
        """
        from numtx.checkpoints.hub import resolve

        if is_adapter(pretrained_model_name_or_path) and _form(Path(pretrained_model_name_or_path)) is None:
            pretrained_model_name_or_path = base_of(cls.__name__, pretrained_model_name_or_path)
        path = resolve(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            files=TOKENIZER_FILES,
        )
        name = os.fspath(pretrained_model_name_or_path)
        if path.is_file():
            return _from_gguf(path, settings, name)
        return _from_folder(path, settings, name)


def _from_gguf(path: Path, given: dict[str, Any], name: str) -> PretrainedTokenizer:
    from numtx.checkpoints.gguf_tokenizer import gguf_tokenizer

    content, config = gguf_tokenizer(path)
    settings = make_settings({**config, **given}, None, where=f"'{path}'")
    return TokenizersBackend(backend_of_json(content, f"'{path}'"), settings, name, from_file=False)


def _form(folder: Path) -> tuple[str, ...] | None:
    """Return the files of the best form of a tokenizer that lies in a folder."""
    return next((form for form in TOKENIZER_FORMS if all((folder / file).is_file() for file in form)), None)


def _from_folder(folder: Path, given: dict[str, Any], name: str) -> PretrainedTokenizer:
    settings = read_settings(folder, given)
    form = _form(folder)
    if form == TOKENIZER_FORMS[0] and settings.family in ("marian", None):
        settings.adopt("marian")
        return MarianTokenizer(folder, settings, name)
    if (folder / "tokenizer.json").is_file():
        backend = with_prefix_space(read_backend(folder / "tokenizer.json"), given.get("add_prefix_space"))
        if settings.family == "t5" and not settings.extra:
            settings.extra += [f"<extra_id_{i}>" for i in range(int(settings.setting("extra_ids")))]
            settings.extra = [token for token in settings.extra if backend.token_to_id(str(token)) is not None]
        return TokenizersBackend(backend, settings, name)
    if form is None:
        looked = ", ".join(" with ".join(form) for form in TOKENIZER_FORMS)
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
        raise ValueError(f"AutoTokenizer: expected one of {looked} in '{folder}', got {there}")
    backend = _from_vocabulary(folder, form, settings)
    tokenizer = TokenizersBackend(backend, settings, name, from_file=False)
    if backend.post_processor is None:
        begin_and_end(backend, settings)
    return tokenizer


def _from_vocabulary(folder: Path, form: tuple[str, ...], settings: Settings) -> Any:
    """Return the backend that a folder's vocabulary files make in its family, or in the one that they are usual for."""
    first = folder / form[0]
    if form == ("vocab.txt",):
        _family(settings, _WORD_PIECE, first)
        return word_piece(first, settings)
    if form == ("vocab.json", "merges.txt"):
        _family(settings, _BYTE_LEVEL, first)
        return byte_level(first, folder / "merges.txt", settings)
    if form == ("spiece.model",):
        _family(settings, ("t5",), first)
        return t5_pieces(first, settings)
    _family(settings, ("llama",), first)
    return llama_pieces(first, settings)


def _family(settings: Settings, usual: tuple[str, ...], path: Path) -> None:
    if settings.family is None:
        named = settings.config.get("tokenizer_class")
        if named is not None and family_name(named, None) is None and not named.startswith("PreTrained"):
            raise ValueError(
                f"AutoTokenizer: expected '{path}' to be of {', '.join(usual)}, got tokenizer_class {named} "
                "(its tokenizer.json would open)"
            )
        settings.adopt(usual[0])
    elif settings.family not in usual:
        raise ValueError(f"AutoTokenizer: expected '{path}' to be of {', '.join(usual)}, got {settings.family}")
