"""Backbones of torchvision and timm: modules of these libraries below a linear classifier."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from featbank import errors
from stage1.backbones.base import SingleBackbone

RESNETS = (
    "resnet10",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
)
"""The ResNets of torchvision that go by their bare name."""


class LibraryBackbone(SingleBackbone):
    """A model of a library.

    Parameters
    ----------
    net
        The model without its classifier.
    classifier
        The linear layer above it; one without a bias gets one of zeros.
    head
        The classifier's name in the library.
    """

    def __init__(self, net: nn.Module, classifier: nn.Linear, *, head: str) -> None:
        super().__init__()
        self.dim = classifier.in_features
        self.net = net
        self.classifier = classifier
        if classifier.bias is None:
            classifier.bias = nn.Parameter(torch.zeros(classifier.out_features))
        self._head = head

    def deep(self, maps: torch.Tensor) -> torch.Tensor:
        """Features [B, D] of normalised images [B, C, H, W]."""
        return self.net(maps)

    def last_stage(self) -> nn.Module | None:
        """``layer4``, as the ResNets of torchvision and timm call it."""
        return getattr(self.net, "layer4", None)

    def original_names(self) -> dict[str, str]:
        """Names without ``net.``, and the classifier under the library's name."""
        names = {n.removeprefix("net."): n for n in self.state_dict() if n.startswith("net.")}
        return names | {f"{self._head}.{part}": f"classifier.{part}" for part in ("weight", "bias")}


class _TimmBackbone(LibraryBackbone):
    def deep(self, maps: torch.Tensor) -> torch.Tensor:
        """timm's pre-logits [B, D] of normalised images [B, C, H, W]."""
        net: Any = self.net
        return net.forward_head(net.forward_features(maps), pre_logits=True)

    def fit_images(self, shape: Sequence[int]) -> str:
        """Resample the position embeddings, bicubically, as timm does for other images."""
        net: Any = self.net
        patches, size = getattr(net, "patch_embed", None), tuple(shape[1:])
        before = getattr(patches, "img_size", None)
        any_size = not getattr(patches, "strict_img_size", True)
        if not hasattr(net, "set_input_size") or before in (None, size) or any_size:
            return ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of timm's arithmetic
            net.set_input_size(img_size=size)
        old, new = ("×".join(map(str, sides)) for sides in (before, size))
        return f"Position embeddings for images of {old} were resampled to {new}."


class _ResNet(LibraryBackbone):
    """A ResNet of torchvision or timm: in both, children run in order up to ``layer4``.

    Experts can share all up to ``layer2``.
    """

    def __init__(self, net: nn.Module, classifier: nn.Linear, *, head: str) -> None:
        super().__init__(net, classifier, head=head)
        names = [name for name, _ in net.named_children()]
        self.early_layers = tuple(f"net.{name}" for name in names[: names.index("layer3")])

    def early(self, images: torch.Tensor) -> torch.Tensor:
        """The maps after ``layer2``."""
        for name, layer in self.net.named_children():
            if name == "layer3":
                break
            images = layer(images)
        return images

    def deep(self, maps: torch.Tensor) -> torch.Tensor:
        """``layer3``, ``layer4`` and the pooling: [B, D]."""
        net: Any = self.net
        return self.pool(net.layer4(net.layer3(maps)))

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """The mean over the last map, as torchvision has it."""
        net: Any = self.net
        return net.avgpool(maps).flatten(1)


class _TimmResNet(_ResNet):
    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """timm's pooling, and its dropout where a model has it."""
        net: Any = self.net
        return net.forward_head(maps, pre_logits=True)


def torchvision_backbone(name: str, *, in_channels: int, num_classes: int) -> SingleBackbone:
    """A classification model of torchvision, or its ResNet of depth 10.

    For C ≠ 3 the first convolution is a fresh one of the same geometry.

    Raises
    ------
    ConfigError
        For a model whose head is no linear layer.
    """
    from torchvision import models

    if name == "resnet10":
        net = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=num_classes)
    else:
        # Their auxiliary classifiers would make logits of another form in training.
        single = name in ("googlenet", "inception_v3")
        extra = {"aux_logits": False, "init_weights": True} if single else {}
        net = models.get_model(name, weights=None, num_classes=num_classes, **extra)
    linear = [path for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise errors.ConfigError(
            f"Backbone 'torchvision:{name}' has no linear classifier (its head is a convolution), "
            "so it has no features below one. Take another model."
        )
    if in_channels != 3:
        _replace_stem(net, in_channels)
    head = linear[-1]
    classifier = net.get_submodule(head)
    assert isinstance(classifier, nn.Linear)
    net.set_submodule(head, nn.Identity())
    kind = _ResNet if isinstance(net, models.ResNet) else LibraryBackbone
    return kind(net, classifier, head=head)


def cifar_resnet34(*, in_channels: int, num_classes: int) -> SingleBackbone:
    """The ResNet-34 for 32×32 images of [LTWB, LOS]: D = 512.

    torchvision's ResNet-34 with a 3×3 stem of stride 1 and no max-pooling. The mean is over the
    whole last map, which is the papers' 4×4 pooling where images are 32×32. Of the family of
    `stage1.backbones.cifar.CifarResNet` it is not: its stages have 64, 128, 256 and 512 channels
    and projection shortcuts.
    """
    from torchvision import models

    net = models.resnet34(weights=None, num_classes=num_classes)
    net.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    classifier, net.fc = net.fc, nn.Identity()
    return _ResNet(net, classifier, head="fc")


def timm_backbone(name: str, *, in_channels: int, num_classes: int) -> SingleBackbone:
    """A model of timm with fresh weights, up to its pre-logits, and a fresh linear classifier."""
    import timm

    net: Any = timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_channels)
    head = net.pretrained_cfg.get("classifier") or "classifier"
    head = head if isinstance(head, str) else head[0]  # distilled models have two
    kind = _TimmResNet if isinstance(net, timm.models.ResNet) else _TimmBackbone
    return kind(net, nn.Linear(net.head_hidden_size, num_classes), head=head)


def torchvision_problem(name: str) -> str | None:
    """Say in one sentence what is wrong with the name of a torchvision model; None if nothing."""
    from torchvision import models

    known = models.list_models(module=models)
    if name in known:
        return None
    meant = errors.did_you_mean(name, known) or " Choose a name of torchvision.models.list_models."
    return f"Unknown backbone 'torchvision:{name}'.{meant}"


def timm_problem(name: str) -> str | None:
    """Say in one sentence what is wrong with the name of a timm model; None if nothing."""
    try:
        import timm
    except ImportError:
        return (
            f"Backbone 'timm:{name}' needs timm, which is not installed. "
            "Run: pip install 'featbank[timm]'"
        )
    if timm.is_model(name):
        return None
    meant = errors.did_you_mean(name, timm.list_models()) or " Choose a name of timm.list_models."
    return f"Unknown backbone 'timm:{name}'.{meant}"


def _replace_stem(net: nn.Module, in_channels: int) -> None:
    path, old = next((p, m) for p, m in net.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        kernel_size=old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    net.set_submodule(path, new)
