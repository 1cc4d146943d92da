"""A model's steps by the compiled pass: what it takes, and how it is called."""

from __future__ import annotations

import ctypes
from threading import Event
from typing import Any

import torch
from torch import Tensor

from stage2.engine.kernel import LossRows
from stage2.engine.model import Model
from stage2.engine.native.library import (
    Library,
    LossFields,
    ParameterFields,
    Task,
    address,
    library,
)
from stage2.engine.passes import PassLosses
from stage2.engine.rows import Window
from stage2.methods.heads.cosine import Cosine
from stage2.methods.heads.disalign import DisAlign
from stage2.methods.heads.linear import Linear
from stage2.methods.heads.lws import LWS
from stage2.methods.heads.mislas import MiSLAS
from stage2.methods.heads.mlp import MLP
from stage2.methods.heads.tde import TDE
from stage2.methods.optimisers import SGD, AdamW, Optimiser

HEADS: dict[type, tuple[str, ...]] = {
    Linear: ("weight", "bias"),
    Cosine: ("weight", "scale"),
    MiSLAS: ("weight", "bias", "scale"),
    TDE: ("weight",),
    LWS: ("scale",),
    DisAlign: ("alpha", "beta", "v", "c"),
    MLP: ("hidden_weight", "hidden_bias", "weight", "bias"),
}
"""Trained parameters of heads, both in the order of task.h."""

RULES: list[type[Optimiser]] = [SGD, AdamW]
"""Optimisers in the order of task.h."""

KERNELS = ["family", "softmax_bce", "sigmoid_focal"]
"""Kernels of losses in the order of task.h."""

CALL_FLOPS = 8 * 10**9
"""Floating-point operations of a thread in a call, about a tenth of a second: Ctrl-C acts between
calls."""

CACHE_BYTES = 512 << 10
"""Parameters and optimiser state of configurations that share a pass over the batches: what stays
in a core's second cache."""

Z0_BYTES = 16 << 20
"""Bytes of stage-1 logits computed for a call, where they are not kept."""


def compiled_pass(
    model: Model, optimiser: Optimiser, *, kernel: str, precision: str, **given: Any
) -> CompiledPass | None:
    """The compiled pass of a model; None where it has not all that these need, or is not there.

    Parameters
    ----------
    model, optimiser, kernel, precision, given
        Of `CompiledPass`.
    """
    parameters = model.state["parameters"].values()
    suits = (
        type(model.head) in HEADS
        and type(optimiser) in RULES
        and kernel in KERNELS
        and precision in ("fp32", "bf16")
        and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in parameters)
    )
    found = library() if suits else None
    if not isinstance(found, Library) or (precision == "bf16" and not found.bf16):
        return None
    return CompiledPass(found, model, optimiser, kernel=kernel, precision=precision, **given)


class CompiledPass:
    """Trains a model over windows by the library.

    Parameters
    ----------
    library, model, optimiser
        The library; the model and the optimiser, whose tensors it changes in place.
    kernel
        Name of the losses' kernel.
    precision
        ``fp32`` or ``bf16``.
    rates
        Learning rates [steps, C].
    limits
        Bounds [C] on the norms of rows of W after each step, or None.
    """

    def __init__(
        self,
        library: Library,
        model: Model,
        optimiser: Optimiser,
        *,
        kernel: str,
        precision: str,
        rates: Tensor,
        limits: Tensor | None,
    ) -> None:
        self._library, self._model, self._optimiser = library, model, optimiser
        self._rates, self._kernel = rates, KERNELS.index(kernel)
        parameters, data = model.state["parameters"], model.data
        self._held: list[Tensor] = []  # tensors that the task points to
        names = [name for name in HEADS[type(model.head)] if name in parameters]
        self._configs, classes = len(parameters[names[0]]), len(data.counts)
        hidden = parameters["hidden_weight"].shape[1] if isinstance(model.head, MLP) else 0
        self._reads_z0 = isinstance(model.head, LWS | DisAlign)
        self._task = Task(
            head=list(HEADS).index(type(model.head)),
            rule=RULES.index(type(optimiser)),
            half=precision == "bf16",
            configs=self._configs,
            classes=classes,
            dim=data.train.dim,
            hidden=hidden,
            eq5="identity" in parameters,
            limits=_point(limits, self._held),
        )
        if isinstance(model.head, TDE):
            self._task.parts = parameters["direction"].shape[1]
            self._task.head_scale = _point(parameters["scale"].flatten(), self._held)
            self._task.head_gamma = _point(parameters["gamma"].flatten(), self._held)
        if self._reads_z0:
            weight0, bias0 = data.context.classifier
            self._task.norms0 = _point(weight0.norm(dim=1), self._held)
            self._task.bias0, self._task.unit0 = _point(bias0, self._held), data.unit0
        for name, value in optimiser.columns().items():
            setattr(self._task, name, _point(value, self._held, value.dtype))
        for i, name in enumerate(names):
            self._task.parameters[i] = self._parameter(name)
        numbers = sum(parameters[name][0].numel() for name in names)
        self._flops = 4 * classes * (hidden or data.train.dim) + 4 * hidden * data.train.dim
        self._task.group = max(1, CACHE_BYTES // (8 * numbers))

    def takes(self, window: Window, losses: PassLosses) -> bool:
        """All windows that configurations share, under any losses."""
        return True

    def train(
        self,
        window: Window,
        step: int,
        losses: PassLosses,
        stopped: Event,
        configs: range | None = None,
    ) -> tuple[Tensor, int]:
        """Take the steps of a window, of all steps those from `step` on, with PyTorch's number of
        threads; their number changes no bit of the result.

        Of some `configs` where these have features of their own. The last ones end the steps.

        Returns
        -------
        The sum of their losses [C] float64, and how many were taken before `stopped`.
        """
        threads = torch.get_num_threads()
        task, total = self._task, torch.zeros(self._configs, dtype=torch.float64)
        held = self._loss(losses.rows, losses.best_cosines)
        needs_z0 = self._reads_z0 or losses.rows.distil is not None
        steps, batch = window.rows.shape
        configs = configs or range(self._configs)
        task.first, task.last, before = configs.start, configs.stop, self._optimiser.skip(0)
        task.batch, task.x, task.total = batch, address(window.x), address(total, torch.float64)
        task.threads = threads
        at_once = max(1, threads * CALL_FLOPS // (len(configs) * self._flops * batch))
        if needs_z0 and losses.z0 is None:
            at_once = max(1, min(at_once, Z0_BYTES // (4 * batch * task.classes)))
        done = 0
        while done < steps and not stopped.is_set():
            part = slice(done, min(done + at_once, steps))
            batches = self._batches(window, part, losses.z0, needs_z0)
            task.steps = part.stop - done
            task.rates = self._rates[step + done].data_ptr()
            task.taken = before + done
            if self._library.train(ctypes.byref(task)):
                raise MemoryError
            done = part.stop
            del batches
        if configs.stop == self._configs:
            self._optimiser.skip(done)
        del held
        return total, done

    def _batches(
        self, window: Window, part: slice, kept_z0: Tensor | None, needs_z0: bool
    ) -> list[Tensor]:
        """Point the task to the batches of some steps; what it points to."""
        task, rows = self._task, window.rows[part].contiguous()
        labels = window.y[part].contiguous()
        held = [rows, labels]
        task.rows, task.labels = address(rows, torch.int64), address(labels, torch.int64)
        second = window.made.second if window.made else None
        task.second = task.share = task.z0 = task.z0_rows = None
        if second is not None:
            held += [second.y[rows].contiguous(), second.share[rows].contiguous()]
            task.second, task.share = address(held[-2], torch.int64), address(held[-1])
        if needs_z0:
            z0, at = kept_z0, rows
            if z0 is None:
                batch = self._model.data.context.batch(window.x, rows.flatten())
                z0, at = batch.z0[:, 0].contiguous(), torch.arange(rows.numel())
            held += [z0, at]
            task.z0, task.z0_rows = address(z0), address(at, torch.int64)
        return held

    def _loss(self, rows: LossRows, best: Tensor | None) -> list[Tensor]:
        """Point the task to the losses; what it points to."""
        held: list[Tensor] = []

        def point(values: Tensor | None, dtype: torch.dtype = torch.float32) -> int | None:
            return _point(values, held, dtype)

        def by_class(values: Tensor | None) -> int | None:
            return point(None if values is None else values.t())

        self._task.loss = LossFields(
            kernel=self._kernel,
            scale=point(rows.scale),
            shift=point(rows.shift),
            margin=by_class(rows.margin),
            weight=by_class(rows.weight),
            smoothing=by_class(rows.smoothing),
            elsewhere=point(rows.elsewhere),
            at_label=point(rows.at_label),
            gamma=point(rows.gamma),
            frozen_gamma=point(rows.frozen_gamma),
            by_weights=point(rows.by_weights, torch.uint8),
            angle=point(rows.angle),
            best_cosine=point(best),
        )
        if (part := rows.distil) is not None:
            configs, classes = self._configs, part.classes.shape[0]
            strength, temperature = torch.zeros(configs), torch.ones(configs)
            mask = torch.ones(configs, classes)
            strength[part.configs], temperature[part.configs] = part.strength, part.temperature
            mask[part.configs] = part.classes.t()
            self._task.loss.distil = point(strength)
            self._task.loss.temperature = point(temperature)
            self._task.loss.distil_classes = point(mask)
        return held

    def _parameter(self, name: str) -> ParameterFields:
        value, optimiser = self._model.state["parameters"][name], self._optimiser
        anchor = optimiser.anchors.get(name)
        size = value[0].numel()
        states = optimiser.state_of(name)
        return ParameterFields(
            value=address(value),
            first=address(states[0]),
            second=address(states[1]) if len(states) > 1 else None,
            anchor=_point(anchor, self._held),
            anchor_stride=0 if anchor is None or len(anchor) == 1 else size,
            decay=_point(optimiser.decay.get(name), self._held),
            rate=_point(optimiser.multipliers.get(name), self._held),
            size=size,
        )


def _point(
    values: Tensor | None, held: list[Tensor], dtype: torch.dtype = torch.float32
) -> int | None:
    """Address of values as a contiguous tensor of a dtype, which `held` keeps; None for None."""
    if values is None:
        return None
    held.append(values.to(dtype).contiguous())
    return address(held[-1], dtype)
