"""The interface of backbones: branches, each with features and a classifier above them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from featbank import errors
from stage1.backbones.cosine import CosineClassifier


class Outputs(NamedTuple):
    """Features, each [B, D], and logits, each [B, K], by branch; its weight ε, 1 where none is."""

    features: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]
    weights: tuple[float, ...] = ()

    @property
    def combined(self) -> Tensor:
        """Logits [B, K] of all branches: of several, log of the mean of their softmax outputs.

        The mean is weighted by ε_k: Σ_k ε_k·softmax(z_k) / Σ_k ε_k. That is the mean of
        ε_k·softmax(z_k) [SLA eq. 19], whose sum would not be 1.
        """
        if len(self.logits) == 1:
            return self.logits[0]
        weights = self.weights or (1.0,) * len(self.logits)
        pairs = zip(self.logits, weights, strict=True)
        terms = torch.stack([z.log_softmax(1) + math.log(weight) for z, weight in pairs])
        return terms.logsumexp(0) - math.log(sum(weights))


class Backbone(nn.Module, ABC):
    """A model of one or more branches, each with features and the classifier they feed.

    Attributes
    ----------
    name
        As `stage1.backbones.build_backbone` takes it.
    branch_names
        ``("",)``, or ``("expert0", "expert1", …)``.
    dim
        Feature size D of each branch.
    classifier
        ``nn.Linear(D, K)`` with a bias, or a `CosineClassifier`. Of a `SingleBackbone` only;
        experts have one each.
    frozen
        Whether `freeze_but_last_block` was called.
    branch_weights
        ε_k of each branch in loss and prediction, if they are not all 1.
    """

    branch_names: tuple[str, ...]
    dim: int
    classifier: nn.Linear
    branch_weights: tuple[float, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.frozen = False

    @property
    @abstractmethod
    def branches(self) -> tuple[SingleBackbone, ...]:
        """The branches as single backbones, which may share layers."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def branch_features(self, *images: Tensor) -> tuple[Tensor, ...]:
        """`Outputs.features` of `outputs`, without the work for logits."""
        branches = self.branches
        if len(images) == 1:
            maps = [branches[0].early(*images)] * len(branches)
        else:
            maps = [b.early(batch) for b, batch in zip(branches, images, strict=True)]
        return tuple(b.scaled(b.deep(x)) for b, x in zip(branches, maps, strict=True))

    def outputs(self, *images: Tensor) -> Outputs:
        """Features and logits of every branch.

        Parameters
        ----------
        images
            Normalised images [B, C, H, W]: one batch for all branches, which goes through the
            layers they share once, or a batch for each.
        """
        features = self.branch_features(*images)
        pairs = zip(self.branches, features, strict=True)
        logits = tuple(branch.classifier(x) for branch, x in pairs)
        return Outputs(features, logits, self.branch_weights)

    def features(self, images: Tensor) -> Tensor:
        """Features [B, D] of normalised images [B, C, H, W], where there is one branch."""
        (features,) = self.branch_features(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of normalised images [B, C, H, W]: `Outputs.combined`.

        For experts, their softmax is the mean of the experts' softmax outputs, weighted by
        `branch_weights`, so accuracy, cross-entropy and calibration are those of the ensemble.
        """
        return self.outputs(images).combined

    def linear_classifiers(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Weight [K, D] and bias [K] by branch: its logits are ``features @ weight.T + bias``.

        They are detached; those of a linear classifier share its memory.
        """
        return tuple(branch.linear_classifier() for branch in self.branches)

    def freeze_but_last_block(self) -> None:
        """Train only the last residual stage and the classifier, as cRT does on Places-LT.

        With experts, those of each. The other parameters take no gradient, and the other modules
        stay in eval mode in training: their BatchNorm neither uses nor updates batch statistics.

        Raises
        ------
        ConfigError
            For a backbone without residual stages.
        """
        trained = self._last_blocks()
        if not trained:
            raise errors.ConfigError(
                f"Backbone {self.name!r} has no residual stages, so no last block to train alone. "
                "Leave --freeze-but-last-block out, or take a ResNet."
            )
        self.requires_grad_(False)
        for module in trained:
            module.requires_grad_(True)
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training or eval mode; frozen modules stay in eval mode."""
        super().train(mode and not self.frozen)
        if self.frozen:
            for module in self._last_blocks():
                module.train(mode)
            self.training = mode
        return self

    @torch.no_grad()
    def check_images(self, shape: Sequence[int]) -> None:
        """Try an image of `shape` (C, H, W), in eval mode; neither weights nor seeds change.

        Raises
        ------
        ConfigError
            Where the backbone cannot take it.
        """
        training = self.training
        self.eval()
        try:
            self(torch.zeros(1, *shape, device=self.device))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise errors.ConfigError(
                f"Backbone {self.name!r} takes no images of {'×'.join(map(str, shape))} "
                f"({errors.first_line(error).rstrip('. ')}). "
                "Give images of another size, or take another backbone."
            ) from None
        finally:
            self.train(training)

    def _last_blocks(self) -> list[nn.Module]:
        """Last stage and classifier of every branch; empty for one without stages."""
        blocks: list[nn.Module] = []
        for branch in self.branches:
            stage = branch.last_stage()
            if stage is not None:
                blocks += [stage, branch.classifier]
        return blocks


class SingleBackbone(Backbone):
    """A backbone of one branch: ``classifier(scaled(deep(early(images))))`` are its logits.

    Attributes
    ----------
    early_layers
        Names of the modules that `early` runs, which experts can share; empty for a backbone
        without stages, whose `early` does nothing.
    """

    branch_names = ("",)
    early_layers: tuple[str, ...] = ()

    @property
    def branches(self) -> tuple[SingleBackbone, ...]:
        """This one."""
        return (self,)

    def early(self, images: Tensor) -> Tensor:
        """Input of `deep` for normalised images [B, C, H, W]."""
        return images

    @abstractmethod
    def deep(self, maps: Tensor) -> Tensor:
        """Run the layers from `early` to the classifier: [B, D]."""

    def scaled(self, x: Tensor) -> Tensor:
        """Features [B, D] for an output x of `deep`: x, or √s·x/‖x‖ for a cosine classifier."""
        return self.classifier.scaled(x) if isinstance(self.classifier, CosineClassifier) else x

    def linear_classifier(self) -> tuple[Tensor, Tensor]:
        """Weight [K, D] and bias [K]; the bias of a cosine classifier is 0."""
        weight, bias = self.classifier.weight.detach(), self.classifier.bias
        if isinstance(self.classifier, CosineClassifier):
            weight = self.classifier.scaled(weight)
        return weight, weight.new_zeros(len(weight)) if bias is None else bias.detach()

    @abstractmethod
    def last_stage(self) -> nn.Module | None:
        """The last residual stage; None for a backbone without such stages."""

    def fit_images(self, shape: Sequence[int]) -> str:
        """Change a model of one image size to images of `shape` (C, H, W), if it can be: a sentence
        on what was done, empty where nothing was."""
        return ""

    def original_names(self) -> dict[str, str]:
        """Names in the state dict by the names in the library the model comes from."""
        return {name: name for name in self.state_dict()}
