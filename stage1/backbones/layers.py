"""Views of the inner layers of a backbone: outputs of its blocks or stages, whole or pooled.

A layer has the number in the library's own name for it: 11 is ``blocks.11`` of timm's vision
transformers and ``encoder.layers.encoder_layer_11`` of torchvision's, 4 is ``layer4`` of a ResNet.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from featbank import errors
from featbank.wording import listed
from stage1.backbones.base import Backbone
from stage1.backbones.libraries import LibraryBackbone

_PLACES = ("blocks", "encoder.layers", "stages", "layers", "features", "trunk_output", "")
"""Modules whose numbered children are the layers: the first that has two. ``""`` is the model."""

_NUMBERED = re.compile(r"(.*?)(\d+)")
_STAGES = re.compile(r"(layer|stage|block|s)(\d+)")

_NORMS = ("norm", "encoder.ln")
"""The final norm of vision transformers, of timm and of torchvision."""

_LATE_CLASS_TOKEN = ("blocks_token_only", "cls_attn_blocks")
"""Modules of models whose class token joins after the blocks (CaiT, XCiT)."""

_CHANNELS_LAST = ("SwinTransformer", "VisionTransformerSAM")
"""Classes of models whose maps are [B, H, W, C]; others of timm record it as ``output_fmt``."""


@dataclass(frozen=True)
class Layers:
    """Chosen layers of a backbone, and the views made of them.

    Attributes
    ----------
    modules
        Names of the modules by layer: ``{"layer11": "net.blocks.11"}``.
    tokens
        Of `stage1.inference.options.TOKENS`.
    norm
        Name of the module that normalises each layer's tokens; None leaves them as they are.
    prefix
        Tokens before the patches: the class token, and registers.
    class_token
        Whether the first of them is a class token. Without one, ``cls`` is ``mean``.
    channels_last
        Whether maps are [B, H, W, C] rather than [B, C, H, W].
    shapes
        [D], or [T, D] of patches, by view: ``layer11/cls``.
    """

    modules: Mapping[str, str]
    tokens: tuple[str, ...]
    norm: str | None
    prefix: int
    class_token: bool
    channels_last: bool
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @contextlib.contextmanager
    def recorded(self, model: Backbone) -> Iterator[dict[str, Tensor]]:
        """Views [B, D] or [B, T, D] of the images that go through `model` meanwhile."""
        views: dict[str, Tensor] = {}
        with contextlib.ExitStack() as hooks:
            for layer, name in self.modules.items():
                hook = model.get_submodule(name).register_forward_hook(
                    self._keep(views, layer, model)
                )
                hooks.callback(hook.remove)
            yield views

    def _keep(self, views: dict[str, Tensor], layer: str, model: Backbone) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: object, output: object) -> None:
            rows = self._rows(output, layer, model.name)
            if self.norm is not None:
                rows = model.get_submodule(self.norm)(rows)
            for token in self.tokens:
                views[f"{layer}/{token}"] = self._taken(rows, token)

        return keep

    def _rows(self, output: object, layer: str, backbone: str) -> Tensor:
        """Tokens [B, T, D] of a layer's output; positions of a map, row by row."""
        if isinstance(output, Tensor) and output.ndim == 3:
            return output
        if isinstance(output, Tensor) and output.ndim == 4 and self.norm is None:
            maps = output if self.channels_last else output.permute(0, 2, 3, 1)
            return maps.flatten(1, 2)
        if isinstance(output, Tensor) and output.ndim == 4:
            raise errors.ConfigError(
                f"Layers of backbone {backbone!r} are maps, which its final norm is not made for. "
                "Leave --layer-norm out."
            )
        raise errors.ConfigError(
            f"The output of {layer} of backbone {backbone!r} is neither tokens [B, T, D] nor a map "
            "[B, C, H, W]. Leave --layers out, or take another backbone."
        )

    def _taken(self, rows: Tensor, token: str) -> Tensor:
        """A copy, as the model may go on to change its own tensors in place."""
        if token == "cls" and self.class_token:
            return rows[:, 0].clone()
        patches = rows[:, self.prefix :]
        return patches.clone() if token == "patch" else patches.mean(1)


def layers_of(
    model: Backbone,
    chosen: Sequence[str],
    tokens: Sequence[str],
    image_shape: Sequence[int],
    *,
    norm: bool = False,
) -> Layers:
    """Layers of a backbone by number or name, tried on an image of zeros.

    Parameters
    ----------
    model
        In eval mode.
    chosen
        Numbers, negative ones from the last; names of the library, such as ``blocks.11``; or
        ``all``.
    tokens
        Of `stage1.inference.options.TOKENS`.
    image_shape
        (C, H, W).
    norm
        Apply the model's final norm to the tokens of each layer.

    Raises
    ------
    ConfigError
        For experts, a backbone without layers or a layer that it has not, and an output or a norm
        that is not one of tokens.
    """
    if len(model.branches) > 1:
        raise errors.ConfigError(
            f"A model of {len(model.branches)} experts has no layers that all share. "
            "Leave --layers out."
        )
    prefix = "net." if isinstance(model, LibraryBackbone) else ""
    net = model.get_submodule(prefix.rstrip("."))
    modules = _modules(net, model.name, chosen)
    late = any(hasattr(net, name) for name in _LATE_CLASS_TOKEN)
    class_token = not late and any(
        getattr(net, name, None) is not None for name in ("cls_token", "class_token")
    )
    before = getattr(net, "num_prefix_tokens", None)  # of timm, registers and all
    layers = Layers(
        modules={f"layer{number}": prefix + name for number, name in modules.items()},
        tokens=tuple(tokens),
        norm=prefix + _norm(net, model.name) if norm else None,
        prefix=0 if late else int(class_token) if before is None else before,
        class_token=class_token,
        channels_last=getattr(net, "output_fmt", None) == "NHWC"
        or type(net).__name__ in _CHANNELS_LAST,
    )
    return replace(layers, shapes=_shapes(layers, model, image_shape))


def _modules(net: nn.Module, backbone: str, chosen: Sequence[str]) -> dict[int, str]:
    """Names of the chosen layers by number, in order."""
    known = _numbered(net)
    if not known:
        raise errors.ConfigError(
            f"Backbone {backbone!r} has neither blocks nor stages that featbank knows. "
            "Leave --layers out."
        )
    numbers = list(known)
    by_text = {name: number for number, name in known.items()}
    by_text |= {str(number): number for number in numbers}
    by_text |= {str(-i): number for i, number in enumerate(reversed(numbers), 1)}
    if tuple(chosen) == ("all",):
        return known
    for text in chosen:
        if text not in by_text:
            names = listed(known.values(), 4)
            raise errors.ConfigError(
                f"Backbone {backbone!r} has no layer {text!r}. It has {names} "
                f"({len(known)}, the last {numbers[-1]} or -1). Give numbers or names of these."
            )
    return {number: known[number] for number in sorted({by_text[text] for text in chosen})}


def _numbered(net: nn.Module) -> dict[int, str]:
    """Names of the layers by number, in order; none where the model has no such family."""
    for place in _PLACES:
        try:
            children = net.get_submodule(place).named_children()
        except AttributeError:
            continue
        families: dict[str, dict[int, str]] = {}
        for name, _ in children:
            if match := (_NUMBERED if place else _STAGES).fullmatch(name):
                path = f"{place}.{name}" if place else name
                families.setdefault(match[1], {})[int(match[2])] = path
        largest = max(families.values(), key=len, default={})
        if len(largest) > 1:
            return dict(sorted(largest.items()))
    return {}


def _norm(net: nn.Module, backbone: str) -> str:
    for name in _NORMS:
        with contextlib.suppress(AttributeError):
            if not isinstance(net.get_submodule(name), nn.Identity):
                return name
    raise errors.ConfigError(
        f"Backbone {backbone!r} has no final norm of tokens. Leave --layer-norm out."
    )


@torch.no_grad()
def _shapes(
    layers: Layers, model: Backbone, image_shape: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the views by name, in order; raises for a layer that is not run as one module."""
    with layers.recorded(model) as views:
        model.branch_features(torch.zeros(1, *image_shape, device=model.device))
    names = [f"{layer}/{token}" for layer in layers.modules for token in layers.tokens]
    for name in names:
        if name not in views:
            raise errors.ConfigError(
                f"Backbone {model.name!r} does not run {layers.modules[name.partition('/')[0]]} as "
                "one module, so its output cannot be recorded. Take other layers."
            )
    return {name: tuple(views[name].shape[1:]) for name in names}
