"""Write the golden archives: one state dict as `torch.save` writes it, in the zip form and in the legacy form.

python tests/golden/make_golden_archives.py
"""

import collections
import json
from pathlib import Path

import torch

HERE = Path(__file__).parent / "archives"


def state_dict():
    """Every kind of tensor that a checkpoint holds; what they hold stands in tests/checkpoints/archives.py again."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 4
    tensors = collections.OrderedDict(
        whole=base,
        tied=base,
        transposed=base.t(),
        block=base[1:3, 2:5],
        strided=base[::2, ::3],
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        expanded=torch.tensor([7.0]).expand(3),
        parameter=torch.nn.Parameter(torch.tensor([1.0, -1.0])),
        bfloat16=torch.tensor([[1.0, -2.0, 0.15625]]).bfloat16(),
        float16=torch.tensor([[1.0, -2.0], [0.1, 6e-8]]).half().t(),
        float64=torch.tensor([0.1]).double(),
        int64=torch.arange(5).expand(1, -1),
        int32=torch.tensor([-3], dtype=torch.int32),
        int16=torch.tensor([-300], dtype=torch.int16),
        int8=torch.tensor([-5], dtype=torch.int8),
        uint8=torch.tensor([200], dtype=torch.uint8),
        bool=torch.tensor([True, False]),
    )
    tensors._metadata = collections.OrderedDict({"": {"version": 1}})
    return tensors


def main():
    torch.set_default_dtype(torch.float32)
    HERE.mkdir(exist_ok=True)
    tensors = state_dict()
    torch.save(tensors, HERE / "zip.bin")
    torch.save(tensors, HERE / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": tensors, "rates": [0.1, 0.2]}, HERE / "wrapped.bin")
    made_by = {"torch": torch.__version__}
    (HERE / "made_by.json").write_text(json.dumps(made_by) + "\n")


if __name__ == "__main__":
    main()
