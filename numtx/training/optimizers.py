"""SGD, Adam and AdamW, with the updates of torch.optim, over flat buffers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from numtx.functional.blocks import BLOCK
from numtx.training.flat import FlatGradients, FlatParameters, Group, pieces
from numtx.training.threads import Workers

BLOCK_IN_THREADS = 1 << 17  # between two NumPy calls a thread waits for the interpreter lock: fewer, longer calls


class Update(NamedTuple):
    """What all parts of a step must know."""

    lr: float
    settings: dict[str, Any]


class Optimizer:
    """What the optimizers share: the flat layout, blocks, threads and state.

    A subclass names its moments and updates one block in `_update`.

    Parameters
    ----------
    model : Module or FlatParameters
        A module's parameters become views of one flat buffer, and are updated in place.
    lr : float
        The rate where `step` is given none.
    weight_decay : float
    decay : callable (name, array) -> bool, optional
        Which parameters are decayed; default those of two or more axes whose name has no "bias". (torch.optim decays
        every parameter of a group.) Where `model` is a FlatParameters it has been decided already.
    rates : callable (name, array) -> float, optional
        What the learning rate is multiplied by for a parameter, 1 if nothing is said: `rates_by_pattern` makes one. As
        with the groups of torch.optim, decoupled weight decay is multiplied too. Decided with `decay`.

    Attributes
    ----------
    flat : FlatParameters
    steps : int, how many updates were made
    torn : bool, whether a step was begun and failed: part of the numbers are updated, and nothing goes on from them
    """

    moments: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[tuple[str, ...]] = ("steps", "weight_decay")  # of a step: they may change between two

    def __init__(
        self,
        model: Any,
        lr: float,
        weight_decay: float = 0.0,
        decay: Callable[[str, np.ndarray], bool] | None = None,
        rates: Callable[[str, np.ndarray], float] | None = None,
    ):
        name = type(self).__name__
        if lr < 0 or weight_decay < 0:
            raise ValueError(f"{name}: expected lr and weight_decay of 0 or more, got {lr} and {weight_decay}")
        if isinstance(model, FlatParameters) and (decay is not None or rates is not None):
            given = "decay" if decay is not None else "rates"
            raise ValueError(f"{name}: expected {given} to be given to FlatParameters, got it beside one")
        self.flat = model if isinstance(model, FlatParameters) else FlatParameters(model, decay, rates)
        self.lr = lr
        self.weight_decay = weight_decay
        self.steps = 0
        self.torn = False
        self.buffers = {moment: self.flat.zeros() for moment in self.moments}
        self._gradients: FlatGradients | None = None
        self._scratch: list[np.ndarray] = []

    def step(self, grads: Any, lr: float | None = None, *, workers: Workers | None = None) -> None:
        """Update the model's parameters in place.

        Parameters
        ----------
        grads : tree of arrays that mirrors the parameters, or FlatGradients of the same layout, or its buffer
        lr : float, optional
            The rate of this step, default that of the constructor.
        workers : Workers, optional
            Threads to share the update; the result is the same without.

        Raises
        ------
        ValueError
            If a gradient is missing, unexpected, or of another shape or dtype; if the parameters changed shape.
        """
        gradient = self._flat_gradient(grads)
        update = self.begin(lr)
        count = workers.worth(self.flat.size) if workers else 1
        block = BLOCK if count == 1 else BLOCK_IN_THREADS
        cuts = [(group, *cut) for group in self.flat.groups for cut in pieces(group.start, group.stop, count, block)]
        while len(self._scratch) < len(cuts):
            self._scratch.append(np.empty(BLOCK_IN_THREADS, self.flat.dtype))
        (workers or Workers(1)).map(
            lambda numbered: self._update_range(*numbered[1], gradient, update.lr, block, self._scratch[numbered[0]]),
            list(enumerate(cuts)),
        )
        self.finish(update)

    # A step in parts, for those who share it out among processes, each with an optimizer of its own over one memory:
    # begin, update_slice for slices that together are all, finish.

    def begin(self, lr: float | None = None) -> Update:
        """Return what all parts of a step must know; until `finish` the optimizer is `torn`."""
        if self.torn:
            raise ValueError(
                f"{type(self).__name__}: expected whole weights, got some of a step that failed; load the last save"
            )
        self.flat.sync()
        self.torn, self.steps = True, self.steps + 1
        return Update(self.lr if lr is None else lr, {name: getattr(self, name) for name in self.settings})

    def update_slice(self, start: int, stop: int, gradient: np.ndarray, update: Update, scale: float = 1.0) -> None:
        """Make a slice's part of a step, with the gradients scaled in place before."""
        for name, value in update.settings.items():
            setattr(self, name, value)
        if not self._scratch:
            self._scratch.append(np.empty(BLOCK_IN_THREADS, self.flat.dtype))
        for group in self.flat.groups:
            cut = max(start, group.start), min(stop, group.stop)
            self._update_range(group, *cut, gradient, update.lr, BLOCK, self._scratch[0], scale)

    def finish(self, update: Update) -> None:
        """Say that all parts of a step were made."""
        self.torn = False

    def _update_range(
        self,
        group: Group,
        start: int,
        stop: int,
        gradient: np.ndarray,
        lr: float,
        block: int,
        scratch: np.ndarray,
        scale: float = 1.0,
    ) -> None:
        rate, weight_decay = lr * group.rate, self.weight_decay if group.decay else 0.0
        for at in range(start, stop, block):
            cut = slice(at, min(at + block, stop))
            if scale < 1:
                gradient[cut] *= scale
            moments = [self.buffers[moment][cut] for moment in self.moments]
            arrays = self.flat.buffer[cut], gradient[cut], *moments, scratch[: cut.stop - cut.start]
            self._update(*arrays, rate, weight_decay)

    def _update(self, *arguments: Any) -> None:
        """Update one block: parameters, gradients, one array a moment, scratch, rate, weight decay."""
        raise TypeError(f"{type(self).__name__}: expected a subclass that defines _update, got none")

    def _flat_gradient(self, grads: Any) -> np.ndarray:
        name = type(self).__name__
        if isinstance(grads, FlatGradients):
            if grads.flat is not self.flat and grads.flat.slots != self.flat.slots:
                raise ValueError(f"{name}: expected gradients of this optimizer's layout, got those of another")
            return grads.buffer
        if isinstance(grads, np.ndarray):
            if grads.shape != self.flat.buffer.shape or grads.dtype != self.flat.dtype:
                expected = f"{self.flat.buffer.shape} {self.flat.dtype}"
                raise ValueError(f"{name}: expected flat gradients {expected}, got {grads.shape} {grads.dtype}")
            return grads
        if self._gradients is None:
            self._gradients = self.flat.gradients()
        self._gradients.assign(grads)
        return self._gradients.buffer

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return {"step": count, "<moment>.<parameter>": array}, the arrays as views of the live state.

        Raises
        ------
        ValueError
            If it is `torn`.

        Examples
        --------
        >>> from numtx import nn
        >>> sorted(AdamW(nn.Linear(2, 3, rng=0)).state_dict())
        ['exp_avg.bias', 'exp_avg.weight', 'exp_avg_sq.bias', 'exp_avg_sq.weight', 'step']
        """
        if self.torn:
            raise ValueError(f"{type(self).__name__}: expected a whole state, got some of a step that failed")
        return self._state()

    def _state(self) -> dict[str, np.ndarray]:
        state = {"step": np.array(self.steps, np.int64)}
        for moment, buffer in self.buffers.items():
            state |= {f"{moment}.{name}": slot.view(buffer) for name, slot in self.flat.slots.items()}
        return state

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Take over what `state_dict` gave.

        Raises
        ------
        ValueError
            If an entry is missing, unexpected, or of another shape or dtype.
        """
        name = type(self).__name__
        own = self._state()
        if own.keys() != state.keys():
            differ = ", ".join(sorted(own.keys() ^ state.keys()))
            raise ValueError(f"{name}: expected the state of such an optimizer, got missing or unexpected {differ}")
        for key, array in own.items():
            if state[key].shape != array.shape or state[key].dtype != array.dtype:
                raise ValueError(
                    f"{name}: expected {key} to be {array.shape} {array.dtype},"
                    f" got {state[key].shape} {state[key].dtype}"
                )
        self.steps, self.torn = int(state["step"]), False
        for key, array in own.items():
            array[...] = state[key]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

        g ← g + weight_decay · p        b ← momentum · b + g        p ← p - lr · b

    Parameters
    ----------
    model, lr, weight_decay, decay, rates : see Optimizer
    momentum : float in [0, 1)
        0 keeps no buffer b.

    Notes
    -----
    Momentum is not damped and not Nesterov's, as torch.optim.SGD has it by default.

    Examples
    --------
    >>> from numtx import nn
    >>> model = nn.LayerNorm(2)
    >>> SGD(model, lr=0.5).step({"weight": np.ones(2, np.float32), "bias": np.zeros(2, np.float32)})
    >>> model.weight
    array([0.5, 0.5], dtype=float32)
    """

    settings = ("steps", "weight_decay", "momentum")

    def __init__(
        self,
        model: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        decay: Callable[[str, np.ndarray], bool] | None = None,
        rates: Callable[[str, np.ndarray], float] | None = None,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"SGD: expected momentum in [0, 1), got {momentum}")
        self.momentum = momentum
        self.moments = ("momentum_buffer",) if momentum else ()  # type: ignore[misc]
        super().__init__(model, lr, weight_decay, decay, rates)

    def _update(self, p, g, *rest):
        *moments, scratch, lr, weight_decay = rest
        if weight_decay:
            np.multiply(p, weight_decay, out=scratch)
            scratch += g
            g = scratch
        if moments:
            (buffer,) = moments
            buffer *= self.momentum
            buffer += g
            g = buffer
        np.multiply(g, lr, out=scratch)
        p -= scratch


class Adam(Optimizer):
    """Adam, with weight decay as an L2 term in the gradient.

        g ← g + weight_decay · p
        m ← β1 m + (1 - β1) g            v ← β2 v + (1 - β2) g²
        p ← p - lr · m̂ / (√v̂ + eps)      m̂ = m / (1 - β1^t)      v̂ = v / (1 - β2^t)

    Parameters
    ----------
    model, lr, weight_decay, decay, rates : see Optimizer
    betas : (float, float), each in [0, 1)
    eps : float
        Stands outside the root of the corrected v̂, as in the paper and in torch.optim.Adam.

    Notes
    -----
    Kingma and Ba (2015), algorithm 1. The corrections are moved out of the array passes: with c = √(1 - β2^t),

        m̂ / (√v̂ + eps) = m · (c / (1 - β1^t)) / (√v + eps · c)

    Examples
    --------
    >>> from numtx import nn
    >>> model = nn.LayerNorm(2)
    >>> Adam(model, lr=0.5).step({"weight": np.full(2, 7, np.float32), "bias": np.zeros(2, np.float32)})
    >>> model.weight
    array([0.5, 0.5], dtype=float32)
    """

    moments = ("exp_avg", "exp_avg_sq")
    settings = ("steps", "weight_decay", "betas", "eps")

    def __init__(
        self,
        model: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay: Callable[[str, np.ndarray], bool] | None = None,
        rates: Callable[[str, np.ndarray], float] | None = None,
    ):
        name = type(self).__name__
        if not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(f"{name}: expected two betas in [0, 1), got {betas}")
        if not eps > 0:
            raise ValueError(f"{name}: expected a positive eps, got {eps}")
        super().__init__(model, lr, weight_decay, decay, rates)
        self.betas = (betas[0], betas[1])
        self.eps = eps

    def _update(self, p, g, m, v, scratch, lr, weight_decay):
        if weight_decay:
            g = g + weight_decay * p
        self._adam(p, g, m, v, scratch, lr)

    def _adam(self, p, g, m, v, scratch, lr):
        beta1, beta2 = self.betas
        correction = math.sqrt(1 - beta2**self.steps)
        m *= beta1
        np.multiply(g, 1 - beta1, out=scratch)
        m += scratch
        v *= beta2
        np.multiply(g, g, out=scratch)
        scratch *= 1 - beta2
        v += scratch
        np.sqrt(v, out=scratch)
        scratch += self.eps * correction
        np.divide(m, scratch, out=scratch)
        scratch *= lr * correction / (1 - beta1**self.steps)
        p -= scratch


class AdamW(Adam):
    """Adam with decoupled weight decay.

        p ← p - lr · weight_decay · p    and then Adam's update from the gradient alone

    Parameters
    ----------
    model, lr, betas, eps, weight_decay, decay, rates : see Adam and Optimizer

    Notes
    -----
    Loshchilov and Hutter (2019), algorithm 2, with the schedule multiplied into lr, as torch.optim.AdamW has it.

    Examples
    --------
    >>> from numtx import nn
    >>> model = nn.Linear(2, 3, rng=0)
    >>> optimizer = AdamW(model, lr=1e-3, weight_decay=0.1)
    >>> optimizer.step({"weight": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)})
    >>> optimizer.steps
    1
    """

    def __init__(
        self,
        model: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        decay: Callable[[str, np.ndarray], bool] | None = None,
        rates: Callable[[str, np.ndarray], float] | None = None,
    ):
        super().__init__(model, lr, betas, eps, weight_decay, decay, rates)

    def _update(self, p, g, m, v, scratch, lr, weight_decay):
        if weight_decay:
            p *= 1 - lr * weight_decay
        self._adam(p, g, m, v, scratch, lr)
