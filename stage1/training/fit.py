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
from stage1.augment import augmented, cuts_of, mixup
from stage1.backbones import Backbone, Outputs
from stage1.data.images import Preprocessing, Split, batches_of, on_device
from stage1.data.streaming import StreamedImages
from stage1.inference.batchnorm import draw_by_class
from stage1.inference.evaluate import plain_batches
from stage1.processes.distributed import ProcessGroup
from stage1.training.angles import best_cosines, class_cosines
from stage1.training.settings import TrainSettings, deferral_epoch, learning_rate

POWERS = {"class_balanced": 0.0, "sqrt": 0.5}
"""Exponent q of p(class) ∝ n_k^q by sampler, for those that draw with replacement."""


class BatchLoss(Protocol):
    """A loss that training minimises."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, epoch: int, /) -> torch.Tensor:
        """Loss of a batch, a scalar, for logits [B, K], labels [B] and the epoch 0…T−1."""


@runtime_checkable
class AngularLoss(Protocol):
    """A loss that weighs images by angles, `cosine` [B] and `best` [K] of `angles`."""

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
        """As `BatchLoss`, with the angles of a branch where they are needed."""

    def needs_angles(self, epoch: int) -> bool:
        """True where calls of this epoch need angles."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, epoch: int, /) -> torch.Tensor:
    """The loss `ce`."""
    return F.cross_entropy(logits, labels)


@dataclass(frozen=True)
class Draws:
    """Generators of an epoch, fixed by (seed, epoch, rank): no epoch depends on one before it.

    `order` draws the rows, the same for all processes; `images` the augmentation and the partners
    of mixup; `shares` the λ of mixup; `crops` the crops of original images; `seed` is for torch's
    global generator, which dropout uses.
    """

    order: torch.Generator
    images: torch.Generator
    shares: np.random.Generator
    crops: np.random.Generator
    seed: int


def draws_of(seed: int, epoch: int, group: ProcessGroup) -> Draws:
    """Generators of `epoch` 0…T−1 for one process of a group."""

    def seed_of(*key: int) -> int:
        sequence = np.random.SeedSequence(seed, spawn_key=(epoch, *key))
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)

    return Draws(
        order=torch.Generator(group.device).manual_seed(seed_of(0)),
        images=torch.Generator(group.device).manual_seed(seed_of(1, group.rank)),
        shares=np.random.default_rng(seed_of(2, group.rank)),
        crops=np.random.default_rng(seed_of(4, group.rank)),
        seed=seed_of(3, group.rank),
    )


def sgd(model: Backbone, settings: TrainSettings) -> torch.optim.SGD:
    """Freeze layers as the settings say; return the optimiser of the others."""
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
    objective: BatchLoss | AngularLoss = cross_entropy,
    optimiser: torch.optim.SGD | None = None,
    start: int = 0,
    group: ProcessGroup | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[dict[str, Any]]:
    """Train `model` in place, on its device, with SGD; yield after each epoch.

    The losses of experts are added, as RIDE does, weighted by ε_k. An objective that weighs by
    angles has them measured over all training images, without augmentation, before each epoch that
    needs them, and there is no mixup in these epochs [SLA §4.2].

    With `drop_augmentation`, images are not augmented from `deferral_epoch` on [SLA Fig. 3].

    The rows of an epoch are a permutation or, with the sampler ``class_balanced`` or ``sqrt``,
    drawn with replacement: a class, uniformly or by the root of its count, then one of its images.
    Deferred re-sampling (DRS) is class-balanced from `deferral_epoch` on.

    Parameters
    ----------
    optimiser, start
        To resume: `sgd(model, settings)` with its saved state, and the number of finished epochs.
    group
        The processes that share each batch: row i of it belongs to process i mod size. Gradients
        are averaged over them; BatchNorm sees only the rows of its process. All must run all
        epochs.
    progress
        Takes (images done, images in all) of the whole run, after each step.

    Yields
    ------
    ``epoch`` (from 1), ``loss`` and ``train_accuracy`` (percent; both of the augmented, mixed
    batches while the weights changed), ``lr``, ``seconds``, ``images_per_second``.

    Raises
    ------
    ConfigError
        Where torch.compile fails, for example because there is no compiler.
    DataError
        For fewer images than processes.
    NotFinite
        Where the loss of an epoch is not finite.
    """
    loop = _Loop(
        model,
        dataclasses.replace(
            split,
            images=on_device(split.images, model.device),
            labels=split.labels.to(model.device),
        ),
        preprocessing,
        settings,
        objective,
        optimiser or sgd(model, settings),
        group or ProcessGroup(0, 1, model.device),
        progress,
    )
    if not loop.used:
        raise errors.DataError(
            f"{len(split.labels)} training images are too few for {loop.group.size} processes. "
            "Start fewer."
        )
    for epoch in range(start, settings.epochs):
        started = time.perf_counter()
        lr = learning_rate(settings, epoch)
        for parameters in loop.optimiser.param_groups:
            parameters["lr"] = lr
        mean_loss, accuracy = (loop.group.total(loop.train(epoch)) / loop.used).tolist()
        if not math.isfinite(mean_loss):
            raise errors.NotFinite(
                f"The loss of epoch {epoch + 1} is {mean_loss}: training diverged at lr {lr:g}. "
                "Lower --lr or lengthen --warmup."
            )
        seconds = time.perf_counter() - started
        yield {
            "epoch": epoch + 1,
            "loss": mean_loss,
            "lr": lr,
            "train_accuracy": 100 * accuracy,
            "seconds": seconds,
            "images_per_second": loop.used / seconds,
        }


@dataclass
class _Loop:
    """The steps of an epoch; images in memory and labels are on the device of the model."""

    model: Backbone
    split: Split
    preprocessing: Preprocessing
    settings: TrainSettings
    objective: BatchLoss | AngularLoss
    optimiser: torch.optim.SGD
    group: ProcessGroup
    progress: Callable[[int, int], None]

    def __post_init__(self) -> None:
        # DistributedDataParallel and compilation wrap a module; the model keeps its names.
        network = self.group.parallel(_Network(self.model))
        self.network: Any = torch.compile(network) if self.settings.compile else network

    @property
    def used(self) -> int:
        """Images of an epoch: the last, short batch is dropped unless it is the only one."""
        N, B = len(self.split.labels), self.settings.batch_size
        used = max(N // B * B, min(N, B))
        return used - used % self.group.size

    def train(self, epoch: int) -> torch.Tensor:
        """Train for an epoch; sums of the loss and of right answers over images, [2] float64."""
        device, settings = self.model.device, self.settings
        self.model.train()
        draws = draws_of(settings.seed, epoch, self.group)
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        done, images_in_all = epoch * self.used, settings.epochs * self.used
        self.progress(done, images_in_all)
        angles, alpha = None, settings.mixup
        if isinstance(self.objective, AngularLoss) and self.objective.needs_angles(epoch):
            angles, alpha = Angles.measured(self.model, self.split, self.preprocessing), 0.0
        bf16 = settings.precision == "bf16"
        preprocessing = self._preprocessing(epoch)
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            _compiling(settings),
        ):
            torch.manual_seed(draws.seed)
            for images, labels in self._batches(epoch, draws, preprocessing.augmentation):
                x = augmented(images, preprocessing, generator=draws.images)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    loss, right = batch_loss(
                        self.network,
                        x,
                        labels,
                        epoch,
                        self.objective,
                        alpha=alpha,
                        draws=draws,
                        angles=angles,
                    )
                self.optimiser.zero_grad()
                loss.backward()
                self.optimiser.step()
                totals += torch.stack([loss.detach() * len(labels), right])
                done += len(labels) * self.group.size
                self.progress(done, images_in_all)
        return totals

    def _preprocessing(self, epoch: int) -> Preprocessing:
        if self.settings.drop_augmentation and epoch >= deferral_epoch(self.settings):
            return dataclasses.replace(self.preprocessing, augmentation="none")
        return self.preprocessing

    def _batches(
        self, epoch: int, draws: Draws, augmentation: str
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This process's share of each batch of an epoch: images uint8 and labels, on device."""
        split, group, B = self.split, self.group, self.settings.batch_size
        sampler = self.settings.sampler
        if self.settings.deferred_sampling and epoch >= deferral_epoch(self.settings):
            sampler = "class_balanced"
        if sampler in POWERS:
            power, labels = POWERS[sampler], split.labels
            order = draw_by_class(labels, self.used, generator=draws.order, power=power)
        else:
            order = torch.randperm(len(split.labels), generator=draws.order, device=group.device)
            order = order[: self.used]
        shares = [batch[group.rank :: group.size] for batch in split.labels[order].split(B)]
        if isinstance(split.images, StreamedImages):
            order = order.cpu()  # once for all batches: each copy would wait for the device
        rows = [batch[group.rank :: group.size] for batch in order.split(B)]
        cuts = cuts_of(split.images, augmentation, lambda rows: draws.crops)
        return zip(batches_of(split.images, rows, group.device, cuts), shares, strict=True)


@dataclass(frozen=True)
class Angles:
    """Angles that weigh the images of an epoch: a model, and its `best_cosines` [E, K]."""

    model: Backbone
    best: torch.Tensor

    @classmethod
    def measured(cls, model: Backbone, split: Split, preprocessing: Preprocessing) -> Self:
        """Measure the cosines of the images of a split, not augmented, in eval mode."""
        plain = plain_batches(split.images, preprocessing, model.device)
        K = len(model.branches[0].classifier.weight)
        return cls(model, best_cosines(model, plain, split.labels, K))

    def of(
        self, branch: int, features: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Arguments of an `AngularLoss` for features [B, D] of a branch."""
        weight, _ = self.model.branches[branch].linear_classifier()
        return {"cosine": class_cosines(features, weight, labels), "best": self.best[branch]}


def batch_loss(
    network: Callable[..., Outputs],
    images: Sequence[torch.Tensor],
    labels: torch.Tensor,
    epoch: int,
    objective: BatchLoss | AngularLoss,
    *,
    alpha: float,
    draws: Draws,
    angles: Angles | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss Σ_k ε_k L_k of a batch over branches, and its number of right answers; both scalars.

    Parameters
    ----------
    network
        Returns the `Outputs` of the images.
    images, labels
        A batch [B, C, H, W] for all branches, or one for each; and [B] int64.
    alpha
        α > 0 of mixup, the same for all branches; 0 without.
    angles
        Where the objective needs them; then `alpha` is 0.
    """
    # Without mixup, the share of each image is 1.
    partners, share = labels, 1.0
    if alpha:
        mixed, partners, share = mixup(
            torch.stack([*images], 1), labels, alpha, generator=draws.images, weights=draws.shares
        )
        images = mixed.unbind(1)
    outputs = network(*[x.contiguous(memory_format=torch.channels_last) for x in images])
    loss = outputs.logits[0].new_zeros(())
    weights = outputs.weights or (1.0,) * len(outputs.logits)
    for branch, (x, logits) in enumerate(zip(outputs.features, outputs.logits, strict=True)):
        measured = angles.of(branch, x, labels) if angles else {}
        branch_loss = objective(logits, labels, epoch, **measured)
        if alpha:
            other = objective(logits, partners, epoch)
            branch_loss = share * branch_loss + (1 - share) * other
        loss = loss + weights[branch] * branch_loss
    guess = outputs.combined.argmax(1)
    right = share * (guess == labels).sum() + (1 - share) * (guess == partners).sum()
    return loss, right


class _Network(nn.Module):
    """A module whose forward returns the `Outputs` of a model."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.model = model

    def forward(self, *images: torch.Tensor) -> Outputs:
        return self.model.outputs(*images)


@contextlib.contextmanager
def _compiling(settings: TrainSettings) -> Iterator[None]:
    """Turn an error of torch.compile into a `ConfigError` of one line."""
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
