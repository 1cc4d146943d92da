"""What all backbones have in common: features, and the linear classifier above them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import nn

from featbank import errors


class Backbone(nn.Module, ABC):
    """A model whose logits are ``classifier(features(images))``.

    Attributes
    ----------
    name
        As `stage1.backbones.build_backbone` takes it.
    dim
        Feature size D.
    classifier
        ``nn.Linear(D, K)`` with a bias.
    frozen
        Whether `freeze_but_last_block` was called.
    """

    dim: int
    classifier: nn.Linear

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.frozen = False

    @abstractmethod
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Features [B, D] of normalised images [B, C, H, W]."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, K] of normalised images [B, C, H, W]."""
        return self.classifier(self.features(images))

    @abstractmethod
    def last_stage(self) -> nn.Module | None:
        """The last residual stage; None for a backbone without such stages."""

    def original_names(self) -> dict[str, str]:
        """Each name of the state dict here by its name in the library the model comes from."""
        return {name: name for name in self.state_dict()}

    def freeze_but_last_block(self) -> None:
        """Train only the last residual stage and the classifier, as cRT does on Places-LT.

        The other parameters take no gradient, and the other modules stay in eval mode in training:
        their BatchNorm neither uses nor follows the statistics of a batch.

        Raises
        ------
        ConfigError
            For a backbone without residual stages.
        """
        stage = self.last_stage()
        if stage is None:
            raise errors.ConfigError(
                f"Backbone {self.name!r} has no residual stages, so no last block to train alone. "
                "Leave --freeze-but-last-block out, or take a ResNet."
            )
        self.requires_grad_(False)
        for module in (stage, self.classifier):
            module.requires_grad_(True)
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training or eval mode; what is frozen is in eval mode always."""
        super().train(mode and not self.frozen)
        if self.frozen and (stage := self.last_stage()):
            stage.train(mode)
            self.classifier.train(mode)
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
            self(torch.zeros(1, *shape, device=self.classifier.weight.device))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise errors.ConfigError(
                f"Backbone {self.name!r} takes no images of {'×'.join(map(str, shape))} "
                f"({errors.first_line(error).rstrip('. ')}). "
                "Give images of another size, or take another backbone."
            ) from None
        finally:
            self.train(training)
