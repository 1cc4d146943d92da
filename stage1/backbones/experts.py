"""Several deep branches over shared early layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from featbank import errors
from stage1.backbones.base import Backbone, SingleBackbone


class Experts(Backbone):
    """E deep branches over shared early layers, in the layout of RIDE; the experts of SLA §4.2.

    Experts of a CIFAR ResNet share the stem and the first stage, and have the second and third
    stage and the classifier each; those of other ResNets share everything up to ``layer2``. RIDE
    also narrows the layers of its experts. SLA does not mention it, and here they keep their width.

    The experts are whole backbones that hold the same early modules: the state dict has these
    tensors under a name for each expert.

    Parameters
    ----------
    build
        Returns a backbone with fresh weights. Called E times; the early layers of the first are
        kept.
    count
        E ≥ 2.
    weights
        ε_k > 0 of each in loss and prediction [SLA eq. 19]; 1 without.

    Raises
    ------
    ConfigError
        For a backbone without stages.
    """

    def __init__(
        self, build: Callable[[], SingleBackbone], count: int, weights: Sequence[float] = ()
    ) -> None:
        super().__init__()
        if any(weight != 1 for weight in weights):
            self.branch_weights = tuple(weights)
        first = build()
        if not first.early_layers:
            raise errors.ConfigError(
                f"Backbone {first.name!r} has no residual stages, so no early layers that experts "
                "could share. Take a ResNet: of CIFAR, torchvision or timm."
            )
        self.name, self.dim = first.name, first.dim
        self.branch_names = tuple(f"expert{e}" for e in range(count))
        self.experts = nn.ModuleList([first])
        for _ in range(count - 1):
            expert = build()
            for name in first.early_layers:
                expert.set_submodule(name, first.get_submodule(name))
            self.experts.append(expert)

    @property
    def branches(self) -> tuple[SingleBackbone, ...]:
        """The experts."""
        return tuple(self.experts)  # type: ignore[arg-type]
