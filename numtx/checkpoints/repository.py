"""A repository of the hub at one revision: which of its files are on disk, and the others fetched when asked for."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numtx.checkpoints.extras import need
from numtx.checkpoints.folder import read_index
from numtx.checkpoints.hub_files import MODEL_FILES, Wanted
from numtx.checkpoints.safetensors_file import _TYPES

INDEX = ".index.json"
SECONDS = 10  # until a hub that says nothing counts as out of reach


class Repository:
    """A repository of the hub at one revision.

    Attributes
    ----------
    name : str
        "gpt2" or "owner/name".
    file : str or None
        The one GGUF file that was asked for.
    commit : str or None
        What the revision stands for; known after the first file.
    """

    def __init__(
        self,
        name: str,
        file: str | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ):
        self.name, self.file, self.revision = name, file, revision
        self.token, self.cache_dir, self.local_files_only = token, cache_dir, local_files_only
        self.commit: str | None = None
        try:
            self.hub = need("huggingface_hub", extra="hub")
            self.errors = need("huggingface_hub.utils", extra="hub")
            self.constants = need("huggingface_hub.constants", extra="hub")
        except ImportError as error:
            raise ImportError(f"hub: '{self.spelled}' does not exist here; to look it up on the hub: {error}") from None
        self.cache = Path(cache_dir or self.constants.HF_HUB_CACHE)
        self.offline = "local_files_only was asked for" if local_files_only else ""
        if self.constants.HF_HUB_OFFLINE:
            self.offline = "HF_HUB_OFFLINE is set"
        self.unreachable = ""  # why, once the hub was found to be

    @property
    def spelled(self) -> str:
        """What the user wrote."""
        return self.name if self.file is None else f"{self.name}/{self.file}"

    def fetch(self, files: Iterable[Wanted] = MODEL_FILES) -> Path:
        """Fetch files and return the folder in which they lie.

        Raises
        ------
        ValueError
            If a needed one is lacking, or no set of `first_of` is there.
        """
        found: list[tuple[str, Path]] = []
        for wanted in files:
            found += [(file, self.get(file)) for file in wanted.needed]
            found += self._present(wanted.optional)
            for choice in wanted.first_of:
                chosen = self._present(choice[:1])
                if chosen:
                    shards = dict.fromkeys(read_index(chosen[0][1]).values()) if choice[0].endswith(INDEX) else ()
                    found += chosen + self._present(choice[1:]) + [(shard, self.get(shard)) for shard in shards]
                    break
            else:
                if wanted.first_of and wanted.must:
                    raise self._lacking([choice[0] for choice in wanted.first_of])
        return _root(*found[0])

    def get(self, file: str) -> Path:
        """Fetch a file that must be there and return where it lies."""
        path = self.find(file)
        if path is None:
            raise self._lacking([file])
        return path

    def find(self, file: str) -> Path | None:
        """Fetch a file, and return where it lies, or None if the repository has none of that name.

        A file that is on disk at the commit costs no request, nor does one that is known to be lacking there.
        """
        if self.commit is None:
            self._ask_for_commit(file)
        known, path = self._known(file)
        if known:
            return path
        try:
            fetched = self.hub.hf_hub_download(
                self.name,
                file,
                revision=self.revision,
                token=self.token,
                cache_dir=self.cache_dir,
                local_files_only=self._alone,
            )
        except self.errors.LocalEntryNotFoundError as error:
            self.unreachable = self.unreachable or ("" if self._alone else _reason(error))
            return None
        except self.errors.EntryNotFoundError:
            return None
        except Exception as error:
            raise self._refused(error) from error
        self._settle(file, Path(fetched))
        return Path(fetched)

    def on_disk(self, file: str) -> Path | None:
        """Return where a file lies, if it was fetched before and is what the revision stands for."""
        if self.commit is None:
            self._ask_for_commit(file)
        return self._known(file)[1]

    def size(self, file: str) -> int | None:
        """Return the bytes of a file that need not be on disk, or None if there is none of that name."""
        if self._alone:
            return None
        try:
            return self._metadata(file).size
        except self.errors.EntryNotFoundError:
            return None
        except Exception as error:
            raise self._refused(error) from error

    def safetensors_headers(self) -> dict[str, dict[str, tuple[str, tuple[int, ...], int]]] | None:
        """Return type, shape and bytes of each array, by file, from headers alone; None if there are no such files."""
        try:
            found = self.hub.get_safetensors_metadata(self.name, revision=self.revision, token=self.token)
        except self.errors.NotASafetensorsRepoError:
            return None
        except Exception as error:
            raise self._refused(error) from error
        return {
            file: {name: _entry(held) for name, held in header.tensors.items()}
            for file, header in found.files_metadata.items()
        }

    @property
    def _alone(self) -> bool:
        return bool(self.offline or self.unreachable)

    def _present(self, files: Iterable[str]) -> list[tuple[str, Path]]:
        found = ((file, self.find(file)) for file in files)
        return [(file, path) for file, path in found if path is not None]

    def _ask_for_commit(self, file: str) -> None:
        """Ask once, without trying again, what the revision stands for; note if the hub is out of reach."""
        if self._alone:
            return
        try:
            commit = self._metadata(file).commit_hash
        except self.errors.EntryNotFoundError:
            return
        except self.errors.RevisionNotFoundError as error:
            raise self._refused(error) from error
        except self.errors.HfHubHTTPError as error:
            self.unreachable = _reason(error)
            if self._known(file)[1] is None:
                raise self._refused(error) from error
            return  # what is on disk serves
        except Exception as error:
            self.unreachable = _reason(error)
            return
        on_disk = self.hub.try_to_load_from_cache(self.name, file, self.cache_dir, self.revision)
        if isinstance(on_disk, str) and _root(file, Path(on_disk)).name == commit:
            self.commit = self.revision = commit

    def _metadata(self, file: str) -> Any:
        url = self.hub.hf_hub_url(self.name, file, revision=self.revision)
        return self.hub.get_hf_file_metadata(url, token=self.token, timeout=SECONDS)

    def _known(self, file: str) -> tuple[bool, Path | None]:
        """Return whether the disk says if the repository has a file, and where it lies if so.

        While the commit is not known, what was fetched last for the revision counts only if nobody can be asked.
        """
        if self.commit is None and not self._alone:
            return False, None
        found = self.hub.try_to_load_from_cache(self.name, file, self.cache_dir, self.revision)
        if not isinstance(found, str):
            return found is not None, None  # the package's own mark says that there is no such file
        self._settle(file, Path(found))
        return True, Path(found)

    def _settle(self, file: str, path: Path) -> None:
        """Stay with the commit of the first file."""
        self.commit = self.revision = _root(file, path).name

    def _lacking(self, files: list[str]) -> ValueError:
        """The error that none of the files is there."""
        if self.unreachable:
            return self._out_of_reach(f"nothing of it in '{self.cache}'")
        wanted = " or ".join(filter(None, (", ".join(files[:-1]), files[-1])))
        where = f"'{self.name}'" + (f" at {self.revision}" if self.revision else "")
        if self.offline:
            return ValueError(
                f"hub: expected {wanted} of {where} on disk, as {self.offline}, got no such file in '{self.cache}';"
                f" with a network, `numtx info {self.spelled} --fetch` or `hf download {self.name}` fetches it"
            )
        return ValueError(f"hub: expected {wanted} in {where}, got a repository without")

    def _out_of_reach(self, got: str) -> ValueError:
        return ValueError(
            f"hub: expected an answer from {self.constants.ENDPOINT} about '{self.name}', got {self.unreachable},"
            f" and {got}; with a network, `numtx info {self.spelled} --fetch` fetches it"
        )

    def _refused(self, error: Exception) -> ValueError:
        """What the hub's refusal means, in one line."""
        errors, endpoint = self.errors, self.constants.ENDPOINT
        if isinstance(error, errors.GatedRepoError):
            return ValueError(
                f"hub: expected access to '{self.name}', got a gated repository: accept its terms on"
                f" {endpoint}/{self.name}, then give a token (HF_TOKEN, or `hf auth login`)"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return ValueError(f"hub: expected a revision of '{self.name}', got {self.revision!r}, which it lacks")
        if isinstance(error, errors.RepositoryNotFoundError):
            return ValueError(
                f"hub: expected a folder, a file or a model on {endpoint}, got '{self.name}', which is none of them (a"
                " private one needs a token: HF_TOKEN, or `hf auth login`)"
            )
        return ValueError(f"hub: expected '{self.name}' from {endpoint}, got {_reason(error)}")


def _root(file: str, path: Path) -> Path:
    """The folder of the commit in which a file lies."""
    return path.parents[file.count("/")]


def _reason(error: BaseException) -> str:
    """An error of the network in a few words: its cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    response = getattr(error, "response", None)
    if response is not None:
        return f"status {response.status_code}"
    return f"{type(error).__name__} ({' '.join(str(error).split()):.160})"


def _entry(held: Any) -> tuple[str, tuple[int, ...], int]:
    start, end = held.data_offsets
    return _TYPES[held.dtype][0] if held.dtype in _TYPES else held.dtype, tuple(held.shape), end - start
