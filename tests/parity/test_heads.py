"""Heads beside PyTorch compositions and the heads of Transformers: values, and the gradient of every array."""

import numpy as np
import pytest
from torch_names import LINEAR, NORM, under

from numtx import functional as F
from numtx import nn

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
transformers = pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
TF = torch.nn.functional

B, T, C, V, LABELS = 3, 5, 6, 7, 4
F64 = {"dtype": np.float64}
SCALES = (0.02, 0.5, 1.0)
POOLINGS = ("first", "last", "mean")
HEAD = under("pooler.dense", "dense", LINEAR) | under("out_proj", "classifier", LINEAR)
ACTIVATIONS = {
    "tanh": torch.tanh, "relu": TF.relu, "gelu": TF.gelu, "silu": TF.silu,
    "gelu_tanh": lambda x: TF.gelu(x, approximate="tanh"),
}  # fmt: skip
# Padding right, left and on both sides; and a sequence without a token, which only a mean or nothing can be made of.
REAL = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 1, 0]], bool)
EMPTY = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 1, 0, 0]], bool)
MASKS = {"no mask": None, "padding": REAL, "a row of padding": EMPTY, "one row for all": REAL[:1]}


def normal(seed, *shape, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def four_axes(real):
    return None if real is None else real[:, None, None, :]


def torch_pool(x, pooling, real=None):
    """By hand: pick or average the real rows of each sequence."""
    rows = []
    for b, sequence in enumerate(x):
        seen = torch.ones(len(sequence), dtype=torch.bool) if real is None else torch.from_numpy(real[b % len(real)])
        tokens = sequence[seen]
        pooled = {"first": tokens[:1], "last": tokens[-1:], "mean": tokens}[pooling]
        rows.append(pooled.mean(0) if len(tokens) else sequence.sum(0) * 0)
    return torch.stack(rows)


def modules(scale=0.5, **parts):
    """Torch modules by name, with random parameters: norm weights not ones, biases not zeros."""
    return randomized(torch.nn.ModuleDict(parts), scale)


def randomized(module, scale=0.5):
    rng = np.random.default_rng(17)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            mean = 0.7 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(torch.from_numpy(mean + scale * rng.standard_normal(parameter.shape)))
    return module.eval()


def compare(agree, ours, names, theirs, call, inputs, borrowed=None, **settings):
    """Give both the same parameters; `call(*tensors)` is the oracle, `borrowed` its parameter that ours borrows."""
    known = dict(theirs.named_parameters(remove_duplicate=False))  # a tied bias has two names in some versions
    parameters = {name: known[other.removesuffix(".T")] for name, other in names.items()}
    arrays = {name: p.detach().numpy() for name, p in parameters.items()}
    flip = {name: names[name].endswith(".T") for name in names}
    for name, array in arrays.items():
        ours.set_parameter(name, array.T if flip[name] else array)

    leaves = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in inputs.items()}
    result = call(*leaves.values())
    results = result if isinstance(result, tuple) else (result,)
    dys = tuple(normal(3 + k, *part.shape) for k, part in enumerate(results))
    lent = {} if borrowed is None else {"weight": known[borrowed]}
    wanted = {**leaves, **lent, **parameters}
    gradients = torch.autograd.grad(results, list(wanted.values()), [torch.from_numpy(dy) for dy in dys])
    expected = {n: g.numpy().T if flip.get(n) else g.numpy() for n, g in zip(wanted, gradients, strict=True)}

    given = [*inputs.values(), *(tensor.detach().numpy() for tensor in lent.values())]
    y, cache = ours.forward(*given, **settings)
    dinputs, grads = ours.backward(dys if isinstance(y, tuple) else dys[0], cache)
    dinputs = dinputs if isinstance(dinputs, tuple) else (dinputs,)
    flat = nn.flatten(grads)
    assert set(flat) == set(names), "one gradient for every parameter"
    got = dict(zip([*inputs, *lent], dinputs, strict=True)) | {name: flat[name] for name in names}
    values = {str(k): part for k, part in enumerate(y if isinstance(y, tuple) else (y,))}
    agree(type(ours).__name__, (values, got), ({str(k): r.detach().numpy() for k, r in enumerate(results)}, expected))


# --- compositions of PyTorch's own parts -----------------------------------------------------------------------------


@pytest.mark.parametrize("real", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling(pooling, real, agree):
    compare(
        agree, nn.Pooling(pooling), {}, torch.nn.ModuleDict(), lambda x: torch_pool(x, pooling, real),
        {"x": normal(0, B, T, C)}, mask=four_axes(real),
    )  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooler(pooling, activation, scale, agree):
    theirs = modules(scale, dense=torch.nn.Linear(C, C))
    compare(
        agree, nn.Pooler(C, activation, pooling, **F64), under("dense", "dense", LINEAR), theirs,
        lambda x: ACTIVATIONS[activation](theirs["dense"](torch_pool(x, pooling, REAL))), {"x": normal(0, B, T, C)},
        mask=four_axes(REAL),
    )  # fmt: skip


FINISH = {
    "SequenceClassificationHead": lambda y: y,
    "ClassifierHead": lambda y: TF.log_softmax(y, dim=-1),
    "RegressorHead": lambda y: y.squeeze(-1),
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("pooling", [*POOLINGS, None])
@pytest.mark.parametrize("kind", FINISH)
def test_heads_that_pool(kind, pooling, pooler, bias, scale, agree):
    labels = () if kind == "RegressorHead" else (LABELS,)
    ours = getattr(nn, kind)(C, *labels, pooler=pooler, pooling=pooling, activation="gelu", bias=bias, **F64)
    theirs = modules(scale, dense=torch.nn.Linear(C, C), classifier=torch.nn.Linear(C, *(labels or (1,)), bias=bias))

    def call(x):
        h = x if pooling is None else torch_pool(x, pooling, REAL)
        return FINISH[kind](theirs["classifier"](TF.gelu(theirs["dense"](h)) if pooler else h))

    names = {n: o for n, o in HEAD.items() if (pooler or "pooler" not in n) and (bias or n != "out_proj.bias")}
    for shape in ((B, T, C), (B, C)) if pooling is None else ((B, T, C),):
        compare(agree, ours, names, theirs, call, {"x": normal(0, *shape)}, mask=four_axes(REAL))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", ["TokenClassificationHead", "ValueHead", "SpanHead"])
def test_heads_that_answer_for_each_token(kind, scale, agree):
    labels = (LABELS,) if kind == "TokenClassificationHead" else ()
    theirs = modules(scale, classifier=torch.nn.Linear(C, {"ValueHead": 1, "SpanHead": 2}.get(kind, LABELS)))

    def call(x):
        y = theirs["classifier"](x)
        return y.squeeze(-1) if kind == "ValueHead" else y.unbind(-1) if kind == "SpanHead" else y

    ours = getattr(nn, kind)(C, *labels, **F64)
    compare(agree, ours, under("out_proj", "classifier", LINEAR), theirs, call, {"x": normal(0, B, T, C)})


@pytest.mark.parametrize("scale", SCALES)
def test_classifier_with_its_loss(scale, agree):
    """Log-probabilities and their loss together are PyTorch's cross-entropy of the scores."""
    theirs, target = modules(scale, classifier=torch.nn.Linear(C, LABELS)), np.array([2, 0, 2])
    x = normal(0, B, T, C)
    ours = nn.ClassifierHead(C, LABELS, pooling="mean", **F64)
    parameters = dict(theirs.named_parameters())
    ours.load_state_dict({
        "out_proj.weight": parameters["classifier.weight"].detach().numpy().T,
        "out_proj.bias": parameters["classifier.bias"].detach().numpy(),
    })  # fmt: skip
    leaf = torch.from_numpy(x).requires_grad_()
    scores = theirs["classifier"](torch_pool(leaf, "mean", REAL))
    loss = TF.cross_entropy(scores, torch.from_numpy(target))
    dx, dweight = torch.autograd.grad(loss, [leaf, parameters["classifier.weight"]])

    y, cache = ours.forward(x, mask=four_axes(REAL))
    value, loss_cache = F.nll_loss(y, target)
    got, grads = ours.backward(F.nll_loss_backward(1.0, loss_cache), cache)
    agree(
        "classifier and loss", ({"loss": value}, {"x": got, "weight": grads["out_proj"]["weight"]}),
        ({"loss": loss.detach().numpy()}, {"x": dx.numpy(), "weight": dweight.numpy().T}),
    )  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
def test_sequence_to_sequence_head(scale, agree):
    theirs = modules(scale, shared=torch.nn.Embedding(V, C))
    ours, bias = nn.Seq2SeqLMHead(V, **F64), normal(2, V)
    ours.set_parameter("final_logits_bias", bias)

    def call(x):  # as in BartForConditionalGeneration: lm_head(x) + final_logits_bias, which is a buffer
        return TF.linear(x, theirs["shared"].weight) + torch.from_numpy(bias)

    compare(agree, ours, {}, theirs, call, {"x": normal(0, B, T, C)}, "shared.weight")


def test_head_with_dropout_on_both_sides(agree):
    from transformers.models.roberta.modeling_roberta import RobertaClassificationHead

    theirs = randomized(RobertaClassificationHead(transformers.RobertaConfig(**TINY, num_labels=5)).eval())
    names = under("pooler.dense", "dense", LINEAR) | under("out_proj", "out_proj", LINEAR)
    ours = nn.ClassificationHead(C, 5, 0.1, **F64)
    compare(agree, ours, names, theirs, theirs, {"x": normal(0, B, T, C)})


# --- Transformers ----------------------------------------------------------------------------------------------------

TINY = {"vocab_size": V, "hidden_size": C, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def test_bert_pooler(agree):
    from transformers.models.bert.modeling_bert import BertPooler

    theirs = randomized(BertPooler(transformers.BertConfig(**TINY)))
    names = under("dense", "dense", LINEAR)
    compare(agree, nn.Pooler(C, **F64), names, theirs, theirs, {"x": normal(0, B, T, C)})


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("activation", [("gelu", "gelu"), ("relu", "relu"), ("gelu_tanh", "gelu_new")])
def test_bert_masked_lm_head(activation, scale, agree):
    from transformers.models.bert.modeling_bert import BertLMPredictionHead

    config = transformers.BertConfig(**TINY, hidden_act=activation[1], layer_norm_eps=1e-3)
    theirs = randomized(BertLMPredictionHead(config), scale)
    names = (
        under("dense", "transform.dense", LINEAR)
        | under("norm", "transform.LayerNorm", NORM)
        | {"bias": "decoder.bias"}
    )
    ours = nn.MaskedLMHead(C, V, activation[0], 1e-3, **F64)
    compare(agree, ours, names, theirs, theirs, {"x": normal(0, B, T, C)}, "decoder.weight")


def test_roberta_heads(agree):
    from transformers.models.roberta.modeling_roberta import RobertaClassificationHead, RobertaLMHead

    config = transformers.RobertaConfig(**TINY, num_labels=LABELS)
    x = {"x": normal(0, B, T, C)}
    theirs = randomized(RobertaClassificationHead(config))
    names = under("pooler.dense", "dense", LINEAR) | under("out_proj", "out_proj", LINEAR)
    compare(agree, nn.SequenceClassificationHead(C, LABELS, **F64), names, theirs, theirs, x)
    theirs = randomized(RobertaLMHead(config))
    names = under("dense", "dense", LINEAR) | under("norm", "layer_norm", NORM) | {"bias": "decoder.bias"}
    compare(agree, nn.MaskedLMHead(C, V, **F64, eps=config.layer_norm_eps), names, theirs, theirs, x, "decoder.weight")


def test_distilbert_heads(agree):
    config = transformers.DistilBertConfig(vocab_size=V, dim=C, n_layers=1, n_heads=2, hidden_dim=8, num_labels=LABELS)
    x = {"x": normal(0, B, T, C)}
    theirs = randomized(transformers.DistilBertForSequenceClassification(config))
    names = under("pooler.dense", "pre_classifier", LINEAR) | under("out_proj", "classifier", LINEAR)
    compare(
        agree, nn.SequenceClassificationHead(C, LABELS, activation="relu", **F64), names, theirs,
        lambda x: theirs.classifier(TF.relu(theirs.pre_classifier(x[:, 0]))), x,
    )  # fmt: skip
    theirs = randomized(transformers.DistilBertForMaskedLM(config))
    names = under("dense", "vocab_transform", LINEAR) | under("norm", "vocab_layer_norm", NORM)

    def masked(x):
        return theirs.vocab_projector(theirs.vocab_layer_norm(theirs.activation(theirs.vocab_transform(x))))

    table = "distilbert.embeddings.word_embeddings.weight"  # tied to the projector
    compare(agree, nn.MaskedLMHead(C, V, **F64), names | {"bias": "vocab_projector.bias"}, theirs, masked, x, table)


def test_bart_head_over_the_last_token(agree):
    from transformers.models.bart.modeling_bart import BartClassificationHead

    theirs = randomized(BartClassificationHead(C, C, LABELS, 0.0))
    names = under("pooler.dense", "dense", LINEAR) | under("out_proj", "out_proj", LINEAR)
    compare(
        agree, nn.SequenceClassificationHead(C, LABELS, pooling="last", **F64), names, theirs,
        lambda x: theirs(torch_pool(x, "last", REAL)), {"x": normal(0, B, T, C)}, mask=four_axes(REAL),
    )  # fmt: skip


def last_hidden(model, base, **inputs):
    """The last hidden state of a model with a head, and what the head made of it."""
    with torch.no_grad():
        return base(**inputs)[0].numpy(), model(**inputs)


@pytest.mark.parametrize("side", ["left", "right"])
def test_gpt2_classifier_reads_the_last_real_token(side):
    real = REAL[[0, 0]] if side == "right" else REAL[[1, 1]]
    ids = np.where(real, np.arange(1, T + 1), 0)
    config = transformers.GPT2Config(
        vocab_size=V, n_embd=C, n_layer=1, n_head=2, n_positions=T, num_labels=LABELS, pad_token_id=0
    )
    model = randomized(transformers.GPT2ForSequenceClassification(config).to(torch.float64))
    hidden, output = last_hidden(
        model, model.transformer, input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(real.astype(int))
    )
    ours = nn.SequenceClassificationHead(C, LABELS, pooler=False, pooling="last", bias=False, **F64)
    ours.load_state_dict({"out_proj.weight": model.score.weight.detach().numpy().T})
    np.testing.assert_allclose(ours(hidden, mask=four_axes(real)), output.logits.numpy(), rtol=1e-12, atol=1e-14)


def test_bert_models_with_their_heads():
    """Sequence, token and span heads on what BERT's last layer gave, beside the whole model."""
    config = transformers.BertConfig(**TINY, num_labels=LABELS)
    ids = torch.tensor([[1, 5, 3, 2, 6], [1, 2, 2, 4, 0]])

    def linear(layer):
        return {"out_proj.weight": layer.weight.detach().numpy().T, "out_proj.bias": layer.bias.detach().numpy()}

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12, atol=1e-14)

    model = randomized(transformers.BertForSequenceClassification(config).to(torch.float64))
    hidden, output = last_hidden(model, model.bert, input_ids=ids)
    ours = nn.SequenceClassificationHead(C, LABELS, **F64)
    dense = model.bert.pooler.dense
    pooler = {"pooler.dense.weight": dense.weight.detach().numpy().T, "pooler.dense.bias": dense.bias.detach().numpy()}
    ours.load_state_dict(linear(model.classifier) | pooler)
    close(ours(hidden), output.logits)

    model = randomized(transformers.BertForTokenClassification(config).to(torch.float64))
    hidden, output = last_hidden(model, model.bert, input_ids=ids)
    ours = nn.TokenClassificationHead(C, LABELS, **F64)
    ours.load_state_dict(linear(model.classifier))
    close(ours(hidden), output.logits)

    config = transformers.BertConfig(**TINY, num_labels=2)
    model = randomized(transformers.BertForQuestionAnswering(config).to(torch.float64))
    hidden, output = last_hidden(model, model.bert, input_ids=ids)
    ours = nn.SpanHead(C, **F64)
    ours.load_state_dict(linear(model.qa_outputs))
    start, end = ours(hidden)
    close(start, output.start_logits)
    close(end, output.end_logits)
