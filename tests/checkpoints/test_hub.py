"""Names of the hub: what is fetched, what is kept, and every way in which it can fail."""

import hashlib
import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from hub_server import Client, Hub

from numtx.checkpoints import hub as hub_module
from numtx.checkpoints.hub import TOKENIZER_FILES, TOKENIZER_FORMS, Wanted, resolve

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="needs pip install 'numtx[hub]'"
)
OLD = importlib.util.find_spec("huggingface_hub") and int(version("huggingface_hub").partition(".")[0]) < 1
tries_once = pytest.mark.skipif(OLD, reason="huggingface_hub before 1.0 tries again for 23 seconds")
BERT = {
    "config.json": {"model_type": "bert"},
    "model.safetensors": b"safetensors",
    "pytorch_model.bin": b"the same in a pickle",
    "tf_model.h5": b"a twin",
    "flax_model.msgpack": b"a twin",
    "onnx/model.onnx": b"a twin",
    "tokenizer.json": {"version": "1.0"},
    "tokenizer_config.json": {},
    "vocab.txt": b"[PAD]",
    "README.md": b"# A model",
}
SHA_OF_WEIGHTS = hashlib.sha256(b"safetensors").hexdigest()
NO_WEIGHTS = "model.safetensors, model.safetensors.index.json, pytorch_model.bin or pytorch_model.bin.index.json"


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def client(hub, tmp_path):
    return Client(hub, tmp_path)


@pytest.fixture
def fetch(client):
    """Resolve names in a new process: fetch("'owner/name', revision='v1'") -> the folders, or the error as a text."""

    def run(*calls, **environment):
        program = "from numtx.checkpoints.hub import *\nfrom numtx.checkpoints import hub\n"
        for call in calls:
            program += f"try: print(resolve({call}))\nexcept Exception as e: print(type(e).__name__, e, sep=': ')\n"
        ran = client.python(program, **environment)
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr == "" or OLD, ran.stderr
        lines = ran.stdout.splitlines()
        assert len(lines) == len(calls), lines
        return lines if len(lines) > 1 else lines[0]

    return run


def test_a_folder_or_file_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "Repository", None)  # nothing of the extra is asked for
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "model.gguf").touch()
    assert resolve(tmp_path / "gpt2") == tmp_path / "gpt2"
    assert resolve(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"
    monkeypatch.chdir(tmp_path)
    assert resolve("gpt2") == Path("gpt2")  # a folder here wins over a name on the hub
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert resolve("~/gpt2") == tmp_path / "gpt2"


@pytest.mark.parametrize(
    "name", ["", "./gpt2", "/no/such", "runs/1/checkpoint-4", "~/gone", "a/b/c", "a b", "../up", "a--b", "x\0y", "a/.b"]
)
def test_what_is_no_name_is_asked_of_nobody(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub_module, "Repository", None)
    with pytest.raises(ValueError, match="hub: expected a folder, a file, or a name such as 'gpt2'") as raised:
        resolve(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["owner/name/../up.gguf", "owner/name/model.bin", "a--b/c/m.gguf"])
def test_a_file_inside_a_repository_that_is_none(name, monkeypatch):
    monkeypatch.setattr(hub_module, "Repository", None)
    with pytest.raises(ValueError, match="which does not exist"):
        resolve(name)


def test_the_extra_is_named_where_it_is_absent(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"hub: 'gpt2' does not exist here.*pip install 'numtx\[hub\]'"):
        resolve("gpt2")


@needs_hub
class TestFetching:
    def test_only_what_is_needed_and_never_twice(self, hub, fetch, tmp_path):
        hub.add("owner/bert", BERT)
        folder = Path(fetch("'owner/bert'"))
        assert folder.is_relative_to(tmp_path)  # HF_HOME
        assert folder.name == hub.commit("owner/bert")
        assert (folder / "config.json").read_bytes() == b'{"model_type": "bert"}'
        assert (folder / "model.safetensors").read_bytes() == b"safetensors"
        named = [Path(one.path).name for one in hub.asked if "/resolve/" in one.path]
        assert set(named) == {"config.json", "generation_config.json", "model.safetensors"}
        assert [Path(one.path).name for one in hub.asked if one.method == "GET"] == ["config.json", SHA_OF_WEIGHTS]
        hub.asked.clear()
        again = fetch("'owner/bert'")
        assert again == str(folder)
        assert [(one.method, one.path) for one in hub.asked] == [("HEAD", "/owner/bert/resolve/main/config.json")]

    def test_tokenizer_files_beside_the_model(self, hub, fetch):
        hub.add("owner/bert", BERT)
        folder = Path(fetch("'owner/bert', files=MODEL_FILES + TOKENIZER_FILES"))
        assert {path.name for path in folder.iterdir()} == {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }

    @pytest.mark.parametrize(
        ("there", "fetched"),
        [
            ({"vocab.json", "merges.txt"}, {"vocab.json", "merges.txt"}),
            ({"vocab.json", "source.spm", "target.spm"}, {"vocab.json", "source.spm", "target.spm"}),
            ({"spiece.model", "spiece.vocab"}, {"spiece.model"}),
            ({"tokenizer.model", "special_tokens_map.json"}, {"tokenizer.model", "special_tokens_map.json"}),
            ({"tokenizer.json", "vocab.json", "merges.txt"}, {"tokenizer.json"}),
            ({"source.spm", "tokenizer.json", "vocab.txt"}, {"source.spm", "tokenizer.json"}),
            ({"vocab.json", "vocab.txt"}, {"vocab.json", "vocab.txt"}),
        ],
    )
    def test_tokenizers_of_every_kind(self, hub, fetch, there, fetched):
        hub.add("t", dict.fromkeys(there, b"x"))
        folder = Path(fetch("'t', files=TOKENIZER_FILES"))
        assert {path.name for path in folder.iterdir()} == fetched

    @pytest.mark.parametrize(
        "there",
        [
            ("source.spm", "target.spm", "vocab.json", "tokenizer.json"),
            ("tokenizer.json", "spiece.model", "vocab.txt"),
            ("spiece.model", "vocab.json", "merges.txt"),
            ("vocab.json", "vocab.txt"),
            ("vocab.json", "merges.txt", "vocab.txt"),
            ("tokenizer.model", "sentencepiece.bpe.model"),
        ],
    )
    def test_a_name_gives_the_form_that_its_folder_gives(self, hub, fetch, there):
        hub.add("t", dict.fromkeys(there, b"x"))
        fetched = {path.name for path in Path(fetch("'t', files=TOKENIZER_FILES")).iterdir()}

        def form_of(files):
            return next(form for form in TOKENIZER_FORMS if set(form) <= set(files))

        assert form_of(fetched) == form_of(there)
        assert not fetched & {"sentencepiece.bpe.model"}  # nothing opens it

    def test_shards_that_the_index_names(self, hub, fetch):
        index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
        shards = {f"model-{k}-of-{n}.safetensors": b"%d" % k for k, n in ((1, 2), (2, 2), (1, 3))}
        hub.add("large", {"config.json": {}, "model.safetensors.index.json": index, "pytorch_model.bin": b""} | shards)
        folder = Path(fetch("'large'"))
        kept = {path.name for path in folder.iterdir()} - {"config.json"}
        assert kept == {"model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"}

    def test_archives_where_there_is_nothing_else(self, hub, fetch):
        hub.add("old", {"config.json": {}, "pytorch_model.bin": b"pickle"})
        folder = Path(fetch("'old'"))
        assert {path.name for path in folder.iterdir()} == {"config.json", "pytorch_model.bin"}
        fetch("'old'")
        hub.asked.clear()
        fetch("'old'")  # that there is no safetensors file is known by now
        assert [one.method for one in hub.asked] == ["HEAD"]

    def test_one_gguf_file(self, hub, fetch):
        hub.add("owner/gguf", {"q4/model.gguf": b"GGUF 4", "q8/model.gguf": b"GGUF 8"})
        assert Path(fetch("'owner/gguf/q4/model.gguf'")).read_bytes() == b"GGUF 4"
        assert set(hub.took("HEAD")) == {"q4/model.gguf"}
        hub.asked.clear()
        offline = fetch("'owner/gguf/q4/model.gguf'", "'owner/gguf/q8/model.gguf'", HF_HUB_OFFLINE=1)
        assert Path(offline[0]).read_bytes() == b"GGUF 4"
        assert "expected q8/model.gguf of 'owner/gguf' on disk" in offline[1]

    def test_revisions(self, hub, fetch):
        hub.add("m", {"config.json": {"n": 1}, "model.safetensors": b"1"})
        hub.add("m", {"config.json": {"n": 2}, "model.safetensors": b"2"}, "v2")
        calls = ("'m'", "'m', revision='v2'", f"'m', revision='{hub.commit('m')}'", "'m', revision='v3'")
        main, v2, commit, v3 = fetch(*calls)
        assert Path(main, "model.safetensors").read_bytes() == b"1"
        assert Path(v2, "model.safetensors").read_bytes() == b"2"
        assert commit == main
        assert v3 == "ValueError: hub: expected a revision of 'm', got 'v3', which it lacks"

    def test_a_repository_that_was_renamed(self, hub, fetch):
        hub.add("openai-community/gpt2", {"config.json": {}, "model.safetensors": b"1"})
        hub.renamed["gpt2"] = "openai-community/gpt2"
        folder = fetch("'gpt2'")
        assert Path(folder, "model.safetensors").read_bytes() == b"1"
        assert fetch("'gpt2'", HF_HUB_OFFLINE=1) == folder

    def test_a_branch_that_moved_is_followed(self, hub, fetch):
        hub.add("m", {"config.json": {"n": 1}, "model.safetensors": b"1"})
        before = fetch("'m'")
        hub.add("m", {"config.json": {"n": 1}, "model.safetensors": b"2"})
        after = fetch("'m'")
        assert before != after
        assert Path(after, "model.safetensors").read_bytes() == b"2"
        assert fetch("'m', local_files_only=True") == after

    def test_tokens(self, hub, fetch, tmp_path):
        hub.add("owner/secret", BERT)
        hub.private["owner/secret"] = "hf_right"
        said = fetch("'owner/secret'")
        assert said.startswith("ValueError: hub: expected a folder, a file or a model on http://127.0.0.1")
        assert "HF_TOKEN" in said
        assert "private" in fetch("'owner/secret'", HF_TOKEN="hf_wrong")
        hub.asked.clear()
        assert Path(fetch("'owner/secret'", HF_TOKEN="hf_right"), "model.safetensors").is_file()
        said = {"cdn" if "/cdn/" in one.path else "hub": one.authorization for one in hub.asked}
        assert said == {"hub": "Bearer hf_right", "cdn": ""}  # another host is not told
        hub.asked.clear()
        elsewhere = tmp_path / fetch("'owner/secret', token='hf_right', cache_dir='other'")
        assert elsewhere.is_relative_to(tmp_path / "other")
        assert "private" in fetch("'owner/secret', token=False, cache_dir='third'", HF_TOKEN="hf_right")

    def test_what_transformers_fetched_is_found(self, hub, client, fetch):
        hub.add("m", {"config.json": {}, "model.safetensors": b"1"})
        fetched = (
            "import huggingface_hub as h\nfor f in ('config.json', 'model.safetensors'): h.hf_hub_download('m', f)"
        )
        assert client.python(fetched).returncode == 0
        hub.asked.clear()
        folder = Path(fetch("'m', local_files_only=True"))
        assert (folder / "model.safetensors").read_bytes() == b"1"
        assert hub.asked == []


@needs_hub
class TestFailing:
    def test_offline(self, hub, fetch, tmp_path):
        hub.add("owner/bert", BERT)
        tried = "expected config.json of 'owner/bert' on disk, as"
        fetches = "`numtx info owner/bert --fetch` or `hf download owner/bert` fetches it"
        for call, environment, why in (
            ("'owner/bert'", {"HF_HUB_OFFLINE": 1}, "HF_HUB_OFFLINE is set"),
            ("'owner/bert', local_files_only=True", {}, "local_files_only was asked for"),
        ):
            said = fetch(call, **environment)
            assert said.startswith(f"ValueError: hub: {tried} {why}, got no such file in '{tmp_path}")
            assert said.endswith(fetches)
            assert hub.asked == []
        folder = fetch("'owner/bert'")
        hub.asked.clear()
        assert fetch("'owner/bert'", HF_HUB_OFFLINE=1) == folder
        said = fetch("'owner/bert', files=TOKENIZER_FILES", HF_HUB_OFFLINE=1)
        assert "expected source.spm, tokenizer.json, spiece.model, tokenizer.model, vocab.json or vocab.txt of " in said
        assert fetches in said
        assert hub.asked == []

    def test_offline_without_weights_on_disk(self, hub, fetch):
        hub.add("m", {"config.json": {}, "model.safetensors": b"1"})
        fetch("'m', files=CONFIG_FILES")
        assert hub.took() == ["config.json"]
        assert f"expected {NO_WEIGHTS} of 'm'" in fetch("'m'", HF_HUB_OFFLINE=1)

    @tries_once
    def test_no_network(self, hub, fetch, client):
        hub.add("m", {"config.json": {}, "model.safetensors": b"1"})
        folder = fetch("'m', files=CONFIG_FILES")
        hub.close()
        other, same, config, tokenizer = fetch(
            "'other'", "'m'", "'m', files=CONFIG_FILES", "'m', files=TOKENIZER_FILES"
        )
        for said in (other, same, tokenizer):
            assert said.startswith(f"ValueError: hub: expected an answer from {hub.endpoint} about ")
            assert "refused" in said
            assert "--fetch` fetches it" in said
        assert config == folder  # what is on disk serves

    def test_what_is_not_there(self, hub, fetch):
        hub.add("empty", {"README.md": b"# Nothing"})
        hub.add("no-weights", {"config.json": {}, "model.onnx": b""})
        hub.add("half", {"config.json": {}, "model.safetensors.index.json": {"weight_map": {"a": "gone.safetensors"}}})
        hub.gated.add("gated")
        hub.add("gated", BERT)
        calls = ("'nobody/nothing'", "'empty'", "'no-weights'", "'half'", "'gated'", "'o/n/gone.gguf'")
        nobody, empty, weights, half, gated, gguf = fetch(*calls)
        assert "or a model on http://127.0.0.1" in nobody
        assert "got 'nobody/nothing', which is none of them" in nobody
        assert empty == "ValueError: hub: expected config.json in 'empty', got a repository without"
        assert weights.startswith(f"ValueError: hub: expected {NO_WEIGHTS} in 'no-weights' at ")
        assert "expected gone.safetensors in 'half'" in half
        assert f"got a gated repository: accept its terms on {hub.endpoint}/gated" in gated
        assert "got 'o/n', which is none of them" in gguf

    @pytest.mark.parametrize(
        "names",
        [
            {"a": "../../evil.safetensors"},
            {"a": "/etc/passwd"},
            {"a": "..\\evil"},
            {"a": ".."},
            {"a": "."},
            {},
            {"a": 1},
            [1],
            None,
        ],
    )
    def test_an_index_that_leaves_the_folder_or_is_none(self, hub, fetch, names):
        hub.add("bad", {"config.json": {}, "model.safetensors.index.json": {"weight_map": names}})
        assert "ValueError: read_index: expected " in fetch("'bad'")
        assert not any("evil" in one.path or "passwd" in one.path for one in hub.asked)

    @tries_once
    def test_a_server_that_is_out_of_order(self, hub, fetch):
        hub.add("m", {"config.json": {}, "model.safetensors": b"1"})
        hub.answers["config.json"] = 500
        said = fetch("'m'")
        assert said == f"ValueError: hub: expected 'm' from {hub.endpoint}, got status 500"
        hub.answers.clear()
        folder = fetch("'m'")
        hub.answers["config.json"] = 503
        assert fetch("'m'") == folder

    def test_a_server_that_is_no_hub(self, fetch, hub):
        assert "expected" in fetch("'m'", HF_ENDPOINT=f"{hub.endpoint}/nowhere")


def test_no_twin_is_among_what_is_fetched():
    for wanted in (*hub_module.MODEL_FILES, *TOKENIZER_FILES, *hub_module.CONFIG_FILES):
        assert isinstance(wanted, Wanted)
        names = [*wanted.needed, *wanted.optional, *(file for choice in wanted.first_of for file in choice)]
        assert not [name for name in names if name.startswith(("tf_", "flax_", "rust_", "onnx", "openvino"))]
