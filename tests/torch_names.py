"""What PyTorch calls the parameters of a component, and which it stores transposed."""

# Our dotted name: PyTorch's, with .T where PyTorch has the weight (out, in).
LINEAR = {"weight": "weight.T", "bias": "bias"}
NORM = {"weight": "weight", "bias": "bias"}
ATTENTION = {
    "in_proj_weight": "in_proj_weight.T",
    "in_proj_bias": "in_proj_bias",
    "out_proj.weight": "out_proj.weight.T",
    "out_proj.bias": "out_proj.bias",
}


def under(ours, theirs, names):
    """The names of a part, `names`, one level up on both sides."""
    return {f"{ours}.{name}": f"{theirs}.{other}" for name, other in names.items()}


BLOCK = (
    under("attention.norm", "norm1", NORM)
    | under("attention.sublayer", "self_attn", ATTENTION)
    | under("feed_forward.norm", "norm2", NORM)
    | under("feed_forward.sublayer.up", "linear1", LINEAR)
    | under("feed_forward.sublayer.down", "linear2", LINEAR)
)
