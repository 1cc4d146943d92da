"""The training loop: data on the device, an epoch is a permutation."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from featbank import errors
from stage1.augment import augmented, mixup
from stage1.backbones import Backbone, Outputs
from stage1.data.images import Preprocessing, Split, batches_of, on_device
from stage1.data.streaming import StreamedImages
from stage1.inference.batchnorm import draw_balanced
from stage1.inference.evaluate import plain_batches
from stage1.processes.distributed import Group
from stage1.training.angles import best_cosines, own_cosines
from stage1.training.settings import TrainSettings, deferral_epoch, learning_rate


class Objective(Protocol):
    """What training minimises."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, epoch: int, /) -> torch.Tensor:
        """Loss of a batch, a scalar, for logits [B, K], labels [B] and the epoch 0…T−1."""


@runtime_checkable
class AngularObjective(Protocol):
    """An objective that weighs images by angles, `cosine` [B] and `best` [K] of `angles`."""

    def __call__(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        epoch: int,
        /,
        *,
        cosine: torch.Tensor | None = None,
        best: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `Objective`, with the angles of a branch where they are needed."""

    def needs_angles(self, epoch: int) -> bool:
        """Whether calls of this epoch need angles."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, epoch: int, /) -> torch.Tensor:
    """The objective of the loss `ce`."""
    return F.cross_entropy(logits, labels)


@dataclass(frozen=True)
class Draws:
    """What an epoch draws from, fixed by (seed, epoch, rank): no epoch depends on one before it.

    `order` gives the rows, the same to all processes; `images` the augmentation and the partners of
    mixup; `shares` the λ of mixup; `seed` is for torch's global generator, which dropout uses.
    """

    order: torch.Generator
    images: torch.Generator
    shares: np.random.Generator
    seed: int


def draws_of(seed: int, epoch: int, group: Group) -> Draws:
    """The draws of `epoch` 0…T−1 for one process of a group."""

    def stream(*key: int) -> int:
        source = np.random.SeedSequence(seed, spawn_key=(epoch, *key))
        return int(source.generate_state(1, np.uint64)[0] >> 1)

    return Draws(
        order=torch.Generator(group.device).manual_seed(stream(0)),
        images=torch.Generator(group.device).manual_seed(stream(1, group.rank)),
        shares=np.random.default_rng(stream(2, group.rank)),
        seed=stream(3, group.rank),
    )


def sgd(model: Backbone, settings: TrainSettings) -> torch.optim.SGD:
    """Freeze what the settings freeze; the optimiser of the rest."""
    if settings.freeze_but_last_block:
        model.freeze_but_last_block()
    return torch.optim.SGD(
        [weight for weight in model.parameters() if weight.requires_grad],
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=model.device.type == "cuda",  # one kernel for all weights
    )


def fit(
    model: Backbone,
    split: Split,
    preprocessing: Preprocessing,
    *,
    settings: TrainSettings,
    objective: Objective | AngularObjective = cross_entropy,
    optimiser: torch.optim.SGD | None = None,
    begin: int = 0,
    group: Group | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[dict[str, Any]]:
    """Train `model` in place, on its device, with SGD; yield after each epoch.

    The losses of experts are added, as RIDE does. Where the objective weighs by angles, an epoch
    begins with a look at all training images as they are, and none is mixed in it [SLA §4.2].

    With deferred re-sampling (DRS), the rows of epochs from `deferral_epoch` on are drawn with
    replacement: a class that has any, uniformly, then one of its images.

    Parameters
    ----------
    optimiser, begin
        To go on: `sgd(model, settings)` with the state it had, and the epochs that are done.
    group
        The processes that share each batch: row i of it is of the process i mod size. Gradients
        are averaged over them, BatchNorm sees a process's own rows. All must run all epochs.
    progress
        Takes (images done, images in all) of the whole run, after each step.

    Yields
    ------
    ``epoch`` (from 1), ``loss`` and ``train_accuracy`` (percent; both of the augmented, mixed
    batches while the weights changed), ``lr``, ``seconds``, ``images_per_second``.

    Raises
    ------
    ConfigError
        Where torch.compile fails, for want of a compiler, for example.
    DataError
        For fewer images than processes.
    NotFinite
        Where the loss of an epoch is not finite.
    """
    device = model.device
    group = group or Group(0, 1, device)
    optimiser = optimiser or sgd(model, settings)
    network = _network(model, settings, group)
    split = dataclasses.replace(
        split, images=on_device(split.images, device), labels=split.labels.to(device)
    )
    N, B = len(split.labels), settings.batch_size
    used = max(N // B * B, min(N, B))  # the last, short batch is dropped unless it is the only one
    used -= used % group.size
    if not used:
        raise errors.DataError(
            f"{N} training images are too few for {group.size} processes. Start fewer."
        )
    for epoch in range(begin, settings.epochs):
        start = time.perf_counter()
        lr = learning_rate(settings, epoch)
        for parameters in optimiser.param_groups:
            parameters["lr"] = lr
        model.train()
        draws = draws_of(settings.seed, epoch, group)
        totals = torch.zeros(2, dtype=torch.float64, device=device)  # loss, right answers
        progress(done := epoch * used, settings.epochs * used)
        angles, alpha = None, settings.mixup
        if isinstance(objective, AngularObjective) and objective.needs_angles(epoch):
            angles, alpha = Angles.measured(model, split, preprocessing), 0.0
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            _compiling(settings),
        ):
            torch.manual_seed(draws.seed)
            for images, labels in _batches(
                split, epoch, used, settings=settings, draws=draws, group=group
            ):
                x = augmented(images, preprocessing, generator=draws.images)
                with torch.autocast(
                    device.type, torch.bfloat16, enabled=settings.precision == "bf16"
                ):
                    loss, right = batch_loss(
                        network,
                        x,
                        labels,
                        epoch,
                        objective,
                        alpha=alpha,
                        draws=draws,
                        angles=angles,
                    )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                totals += torch.stack([loss.detach() * len(labels), right])
                progress(done := done + len(labels) * group.size, settings.epochs * used)
        mean_loss, accuracy = (group.total(totals) / used).tolist()
        if not math.isfinite(mean_loss):
            raise errors.NotFinite(
                f"The loss of epoch {epoch + 1} is {mean_loss}: training diverged at lr {lr:g}. "
                "Lower --lr or lengthen --warmup."
            )
        seconds = time.perf_counter() - start
        yield {
            "epoch": epoch + 1,
            "loss": mean_loss,
            "lr": lr,
            "train_accuracy": 100 * accuracy,
            "seconds": seconds,
            "images_per_second": used / seconds,
        }


@dataclass(frozen=True)
class Angles:
    """What weighs the images of an epoch: a model, and the `best_cosines` of `angles` [E, K]."""

    model: Backbone
    best: torch.Tensor

    @classmethod
    def measured(cls, model: Backbone, split: Split, preprocessing: Preprocessing) -> Self:
        """Measure the cosines of a split's images as they are, in eval mode."""
        plain = plain_batches(split.images, preprocessing, model.device)
        K = len(model.branches[0].classifier.weight)
        return cls(model, best_cosines(model, plain, split.labels, K))

    def of(
        self, branch: int, features: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The angles that an `Objective` takes, for features [B, D] of a branch."""
        weight, _ = self.model.branches[branch].linear_classifier()
        return {"cosine": own_cosines(features, weight, labels), "best": self.best[branch]}


def batch_loss(
    network: Callable[..., Outputs],
    images: Sequence[torch.Tensor],
    labels: torch.Tensor,
    epoch: int,
    objective: Objective | AngularObjective,
    *,
    alpha: float,
    draws: Draws,
    angles: Angles | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of a batch, the sum over branches, and its right answers; both scalars.

    Parameters
    ----------
    network
        Gives `Outputs` of the images.
    images, labels
        A batch [B, C, H, W] for all branches, or one for each; and [B] int64.
    alpha
        α > 0 of mixup, the same for all branches; 0 without.
    angles
        Where the objective needs them; there `alpha` is 0.
    """
    # Without mixup, each image is mixed with nothing: its share is 1.
    partners, share = labels, 1.0
    if alpha:
        mixed, partners, share = mixup(
            torch.stack([*images], 1), labels, alpha, generator=draws.images, weights=draws.shares
        )
        images = mixed.unbind(1)
    outputs = network(*[x.contiguous(memory_format=torch.channels_last) for x in images])
    loss = outputs.logits[0].new_zeros(())
    for branch, (x, logits) in enumerate(zip(*outputs, strict=True)):
        measured = angles.of(branch, x, labels) if angles else {}
        own = objective(logits, labels, epoch, **measured)
        if alpha:
            own = share * own + (1 - share) * objective(logits, partners, epoch)
        loss = loss + own
    guess = outputs.combined.argmax(1)
    right = share * (guess == labels).sum() + (1 - share) * (guess == partners).sum()
    return loss, right


def _batches(
    split: Split,
    epoch: int,
    used: int,
    *,
    settings: TrainSettings,
    draws: Draws,
    group: Group,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This process's share of each batch of an epoch: images uint8 and labels, on the device."""
    if settings.deferred_sampling and epoch >= deferral_epoch(settings):
        order = draw_balanced(split.labels, used, generator=draws.order)
    else:
        order = torch.randperm(len(split.labels), generator=draws.order, device=group.device)[:used]
    labels = [
        batch[group.rank :: group.size] for batch in split.labels[order].split(settings.batch_size)
    ]
    if isinstance(split.images, StreamedImages):
        order = order.cpu()  # all at once: later the device would be waited for
    rows = [batch[group.rank :: group.size] for batch in order.split(settings.batch_size)]
    return zip(batches_of(split.images, rows, group.device), labels, strict=True)


class _Network(nn.Module):
    """A model by its `Outputs`: DistributedDataParallel and compilation see a module's forward."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.model = model

    def forward(self, *images: torch.Tensor) -> Outputs:
        return self.model.outputs(*images)


def _network(model: Backbone, settings: TrainSettings, group: Group) -> Callable[..., Outputs]:
    """What the step calls: the model over the group, compiled; `model` itself keeps its names."""
    network = group.parallel(_Network(model))
    return torch.compile(network) if settings.compile else network  # type: ignore[return-value]


@contextlib.contextmanager
def _compiling(settings: TrainSettings) -> Iterator[None]:
    """Turn an error of torch.compile into one line."""
    if not settings.compile:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # loading it takes seconds

    try:
        yield
    except TorchDynamoException as error:
        reason = errors.first_line(getattr(error, "inner_exception", error)).rstrip(". ")
        raise errors.ConfigError(
            f"The training step could not be compiled ({reason}). Leave --compile out."
        ) from None
