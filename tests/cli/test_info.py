"""numtx info: what it says of every kind of model, and that it reads no weights for it."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from archives import BASE, pickled, storage, tensor, text, write_zip
from gguf_writer import Llama
from hub_server import Client, Hub

from numtx.checkpoints import save_arrays, write_json
from numtx.models import GPT2Config, GPT2LMHeadModel

SIZES = {"vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 3, "n_head": 2}
PARAMETERS = 11 * 8 + 16 * 8 + 3 * (16 + 8 * 24 + 24 + 64 + 8 + 16 + 8 * 32 + 32 + 256 + 8) + 16
needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="needs pip install 'numtx[hub]'"
)


@pytest.fixture
def gpt2(tmp_path):
    GPT2LMHeadModel(GPT2Config(**SIZES), rng=0).save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def facts(ran):
    """The lines of an output by their names; those without a name belong to the one before."""
    assert (ran.code, ran.err) == (0, ""), ran
    lines, name, found = ran.out.splitlines(), "", {}
    column = re.match(r"model +", lines[0]).end()
    for line in lines:
        name = line[:column].strip() or name
        found.setdefault(name, []).append(" ".join(line[column:].split()))
    return {name: one if len(one) > 1 else one[0] for name, one in found.items()}


def test_a_folder(numtx, gpt2):
    said = facts(numtx("info", gpt2))
    sizes = {name: (gpt2 / name).stat().st_size for name in ("config.json", "model.safetensors")}
    assert said == {
        "model": str(gpt2),
        "architecture": "GPT2LMHeadModel (gpt2)",
        "settings": "layers 3, width 8, heads 2, vocabulary 11, context 16",
        "parameters": f"{PARAMETERS:,}",
        "on disk": f"40 arrays: float32 {PARAMETERS:,}",
        "files": [
            f"config.json {sizes['config.json']} B",
            f"model.safetensors {sizes['model.safetensors'] / 1e3:.3g} kB",
        ],
        "place": str(gpt2),
        "memory": [
            f"inference {4 * PARAMETERS / 1e3:.3g} kB for the weights (the file itself, mapped)",
            f"{2 * 3 * 8 * 4} B a token for keys and values, when it writes",
            f"training {16 * PARAMETERS / 1e3:.3g} kB with AdamW (weights, gradients, two moments),"
            " and the activations",
        ],
    }


def test_a_run(numtx, finished):
    said = facts(numtx("info", finished))
    assert said["architecture"] == "GPT2LMHeadModel (gpt2)"
    files = [line.split()[0] for line in said["files"]]
    assert files == ["config.json", "model.safetensors", "tokenizer_config.json", "tokenizer.json"]


def test_a_gguf(numtx, tmp_path):
    path = Llama().write(tmp_path / "small.gguf", "float16")
    said = facts(numtx("info", path))
    matrices = 24 * 32 + 2 * (32 * 32 * 2 + 16 * 32 * 2 + 3 * 64 * 32)
    assert said["architecture"] == "LlamaForCausalLM (llama)"
    assert "key and value heads 2, head width 8, feed-forward 64" in said["settings"]
    assert said["parameters"] == f"{matrices + 5 * 32:,}"
    assert said["on disk"] == f"20 arrays: float16 {matrices:,}, float32 160"
    assert said["memory"][0].endswith("(turned into float32)")
    assert said["memory"][1].startswith(f"{2 * 2 * 2 * 8 * 4} B a token")


def test_shards(numtx, gpt2, tmp_path):
    from numtx.checkpoints import load_arrays

    arrays = list(load_arrays(gpt2 / "model.safetensors").items())
    names = ("a.safetensors", "b.safetensors")
    for name, part in zip(names, (arrays[:7], arrays[7:]), strict=True):
        save_arrays(gpt2 / name, dict(part))
    where = {array: names[k >= 7] for k, (array, _) in enumerate(arrays)}
    write_json(gpt2 / "model.safetensors.index.json", {"weight_map": where})
    (gpt2 / "model.safetensors").unlink()
    said = facts(numtx("info", gpt2))
    assert said["parameters"] == f"{PARAMETERS:,}"
    assert [line.split()[0] for line in said["files"]] == ["config.json", "model.safetensors.index.json", *names]


def archive(folder, names, config=None):
    """A PyTorch archive in which all names are one matrix, as tied weights are."""
    folder.mkdir()
    write_json(folder / "config.json", config or {"model_type": "bert", "architectures": ["BertForMaskedLM"]})
    body = b"}(" + b"".join(text(name) + tensor(shape=(4, 6), strides=(6, 1), of=storage(numel=24)) for name in names)
    write_zip(folder / "pytorch_model.bin", pickled(body + b"u"), {"0": BASE.tobytes()})
    return folder


def test_a_tied_weight_counts_once(numtx, tmp_path):
    names = ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight")
    said = facts(numtx("info", archive(tmp_path / "tied", names)))
    assert said["parameters"] == "24"
    assert said["on disk"] == "2 arrays: float32 24"
    assert len(said["memory"]) == 2  # it does not write
    names = ("lm_head.bias", "lm_head.decoder.bias")
    assert facts(numtx("info", archive(tmp_path / "bias", names)))["parameters"] == "24"


def test_buffers_are_no_parameters(numtx, tmp_path):
    write_json(tmp_path / "m/config.json", {"model_type": "gpt2"})
    arrays = {
        "wte.weight": np.ones((5, 4), np.float32),
        "h.0.attn.bias": np.ones((1, 1, 8, 8), np.float32),
        "h.0.attn.masked_bias": np.array(-1e4, np.float32),
        "embeddings.position_ids": np.arange(8)[None],
        "mask": np.ones((8, 8), bool),
    }
    save_arrays(tmp_path / "m/model.safetensors", arrays)
    said = facts(numtx("info", tmp_path / "m"))
    assert said["parameters"] == "20"
    assert said["on disk"] == "5 arrays: float32 85, bool 64, int64 8"


@pytest.mark.parametrize("config", [{}, {"model_type": "new", "hidden_size": "wide", "n_head": None, "n_layer": True}])
def test_a_config_that_says_little_or_nonsense(numtx, tmp_path, config):
    write_json(tmp_path / "m/config.json", config | {"architectures": config or 3})
    save_arrays(tmp_path / "m/model.safetensors", {"w": np.ones(3, np.float32)})
    said = facts(numtx("info", tmp_path / "m"))
    assert said["architecture"] == config.get("model_type", "not named in config.json")
    assert "settings" not in said
    assert said["parameters"] == "3"


@pytest.mark.parametrize("heads", [0, -2])
def test_no_division_by_heads_that_cannot_be(numtx, gpt2, heads):
    config = json.loads((gpt2 / "config.json").read_text())
    write_json(gpt2 / "config.json", config | {"n_head": heads})
    assert len(facts(numtx("info", gpt2))["memory"]) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_weights_are_not_read(tmp_path):
    """A file of 1 GB with a hole for its numbers: the process stays small, and the hole a hole."""
    write_json(tmp_path / "m/config.json", {"model_type": "bert"})
    size = 10**9
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with open(tmp_path / "m/model.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    program = (
        "from numtx.cli import main; assert main(['info', 'm']) == 0\n"
        "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "parameters    250,000,000" in out
    assert int(out.split("VmHWM:")[1].split()[0]) < 250_000


def test_what_is_no_model(numtx, gpt2, tmp_path):
    numtx("info", tmp_path / "gone").refused(1, "gone", "does not exist")
    (tmp_path / "empty").mkdir()
    numtx("info", tmp_path / "empty").refused(1, "config.json", "empty")
    (tmp_path / "file").write_text("text")
    numtx("info", tmp_path / "file").refused(1, "file")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    numtx("info", tmp_path / "broken.gguf").refused(1, "broken.gguf")
    path = gpt2 / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    numtx("info", gpt2).refused(1, "model.safetensors")
    numtx("info").refused(2, "MODEL")


def test_a_name_without_the_extra(numtx, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    numtx("info", "owner/name").refused(1, "owner/name", "pip install 'numtx[hub]'")


@needs_hub
class TestHub:
    @pytest.fixture
    def hub(self):
        server = Hub()
        yield server
        server.close()

    @pytest.fixture
    def info(self, hub, tmp_path):
        client = Client(hub, tmp_path)

        def run(*arguments, **environment):
            ran = client.numtx("info", *arguments, **environment)
            if ran.returncode:
                assert ran.stderr.count("\n") == 1, ran.stderr
                return ran.stderr
            ran.code, ran.out, ran.err = 0, ran.stdout, ""
            return facts(ran)

        return run

    @pytest.fixture
    def files(self, gpt2):
        """The files of the model, its weights made long by an array that nobody wants to wait for."""
        weights = {"wte.weight": np.zeros((50_000, 8), np.float32), "ln_f.bias": np.zeros(8, np.float16)}
        save_arrays(gpt2 / "model.safetensors", weights)
        return {name: (gpt2 / name).read_bytes() for name in ("config.json", "model.safetensors")}

    def test_headers_alone(self, hub, info, files):
        hub.add("owner/gpt2", files | {"tokenizer.json": b"{}"})
        said = info("owner/gpt2")
        assert said["parameters"] == "400,008"
        assert said["on disk"] == "2 arrays: float32 400,000, float16 8"
        assert said["files"] == "model.safetensors 1.6 MB"
        assert said["place"] == f"{hub.endpoint}/owner/gpt2, not fetched (--fetch does)"
        parts = [one.range for one in hub.asked if one.method == "GET" and "config.json" not in one.path]
        assert parts
        assert all(parts), hub.asked
        hub.asked.clear()
        offline = info("owner/gpt2", HF_HUB_OFFLINE=1)  # its config.json is on disk by now
        assert "pytorch_model.bin.index.json of 'owner/gpt2'" in offline
        assert "`numtx info owner/gpt2 --fetch`" in offline
        fetched = info("owner/gpt2", "--fetch")
        assert fetched["parameters"] == said["parameters"]
        assert [line.split()[0] for line in fetched["files"]] == ["config.json", "model.safetensors", "tokenizer.json"]
        assert "not fetched" not in fetched["place"]
        hub.asked.clear()
        assert info("owner/gpt2") == fetched  # from the disk now
        assert [one.method for one in hub.asked] == ["HEAD"]
        assert info("owner/gpt2", HF_HUB_OFFLINE=1) == fetched

    def test_a_revision_that_is_not_the_one_on_disk(self, hub, info, files, gpt2):
        hub.add("m", files)
        info("m", "--fetch")
        save_arrays(gpt2 / "model.safetensors", {"wte.weight": np.zeros((3, 8), np.float32)})
        hub.add("m", files | {"model.safetensors": (gpt2 / "model.safetensors").read_bytes()}, "small")
        assert info("m", "--revision", "small")["parameters"] == "24"
        assert info("m")["parameters"] == "400,008"
        assert "'gone'" in info("m", "--revision", "gone")

    def test_archives_and_ggufs_say_their_size(self, hub, info, tmp_path):
        hub.add("old", {"config.json": {"model_type": "bert"}, "pytorch_model.bin": b"x" * 5000})
        said = info("old")
        assert said["files"] == "pytorch_model.bin 5 kB"
        assert "parameters" not in said
        index = {"weight_map": {"a": "a.bin", "b": "b.bin", "c": "a.bin"}}
        shards = {"pytorch_model.bin.index.json": index, "a.bin": b"x" * 2000, "b.bin": b"x" * 30}
        hub.add("large", {"config.json": {"model_type": "bert"}} | shards)
        assert info("large")["files"] == ["a.bin 2 kB", "b.bin 30 B"]
        data = Llama().write(tmp_path / "small.gguf").read_bytes()
        hub.add("owner/gguf", {"small.gguf": data})
        said = info("owner/gguf/small.gguf")
        assert said["files"] == f"small.gguf {len(data) / 1e3:.3g} kB"
        assert not [one for one in hub.asked if one.method == "GET" and "/cdn/" in one.path]
        assert info("owner/gguf/small.gguf", "--fetch")["architecture"] == "LlamaForCausalLM (llama)"
        assert info("owner/gguf/small.gguf")["architecture"] == "LlamaForCausalLM (llama)"
        assert "gone.gguf in 'owner/gguf'" in info("owner/gguf/gone.gguf")

    def test_errors(self, hub, info):
        hub.add("none", {"config.json": {"model_type": "bert"}, "model.onnx": b""})
        assert "expected model.safetensors, " in info("none")
        assert "`numtx info a/b --fetch`" in info("a/b", HF_HUB_OFFLINE=1)
        assert "none of them" in info("a/b")


def test_a_folder_here_wins_over_the_hub(numtx, gpt2, tmp_path):
    shutil.copytree(gpt2, tmp_path / "owner/gpt2")
    assert facts(numtx("info", "owner/gpt2"))["place"] == "owner/gpt2"
