"""Text embeddings of classes, by the text side of an image–text model of open_clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from featbank import errors
from featbank.wording import listed

PLAIN = ("a photo of a {}.",)
"""The template where none is given [Radford et al. 2021, section 3.1.4]."""

_BATCH = 256
_WHOLE = ("hf-hub:", "local-dir:")
"""How open_clip begins names of models that have their weights with them."""


@dataclass(frozen=True)
class TextModel:
    """A text encoder: `encode` maps prompts to [n, D]; `logit_scale` is that of the model."""

    encode: Callable[[list[str]], torch.Tensor]
    logit_scale: float


def open_clip_text(model: str) -> TextModel:
    """The text encoder of a model of open_clip, in float32 on the CPU.

    Parameters
    ----------
    model
        ``NAME:WEIGHTS``, where the weights are a tag of open_clip or a file; ``hf-hub:…`` and
        ``local-dir:…`` have theirs with them.

    Raises
    ------
    ConfigError
        Without open_clip, without weights, and for a name or tag that open_clip does not know.
    DataError
        For weights or a tokeniser that cannot be loaded.
    """
    try:
        import open_clip
    except ImportError:
        raise errors.ConfigError(
            "Text is made by open_clip, which is not installed. Run: pip install 'featbank[clip]'"
        ) from None
    name, weights = (model, None) if model.startswith(_WHOLE) else _name_and_weights(model)
    try:
        made = open_clip.create_model(name, pretrained=weights, require_pretrained=True).eval()
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # its loaders, and those of the weights, may raise anything
        raise errors.DataError(
            f"open_clip does not load {model} ({errors.first_line(error).rstrip('. ')}). Check "
            "the weights, and that they can be reached."
        ) from None

    def encode(prompts: list[str]) -> torch.Tensor:
        with torch.inference_mode():
            return made.encode_text(tokenizer(prompts))

    return TextModel(encode, float(made.logit_scale.detach().exp()))


def _name_and_weights(model: str) -> tuple[str, str]:
    """Name and weights of ``NAME:WEIGHTS``; raise unless open_clip knows both."""
    import open_clip

    name, _, weights = model.partition(":")
    if name not in open_clip.list_models():
        raise errors.ConfigError(
            f"open_clip has no model {name!r}. {errors.closest(name, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights not in tags and not Path(weights).is_file():
        problem = f"has no weights {weights!r}" if weights else "was given without weights"
        raise errors.ConfigError(
            f"{name} {problem}. Give {name}:WEIGHTS, a file or one of {listed(tags, 8) or 'none'}."
        )
    return name, weights


def class_embeddings(
    class_names: Sequence[str], templates: Sequence[str], model: TextModel
) -> np.ndarray:
    """Embeddings [P, K, D] float32 of length 1, of K classes in P templates.

    Underscores in names are spaces in prompts. A template has ``{}`` in the place of the name.

    Raises
    ------
    DataError
        For a template without ``{}``.
    """
    for number, template in enumerate(templates, 1):
        if "{}" not in template:
            raise errors.DataError(
                f"Template {number}, {template!r}, has no {{}}. Put {{}} where the class goes."
            )
    names = [name.replace("_", " ") for name in class_names]
    rows = []
    for template in templates:
        prompts = [template.replace("{}", name) for name in names]
        blocks = [
            model.encode(prompts[start : start + _BATCH])
            for start in range(0, len(prompts), _BATCH)
        ]
        rows.append(torch.nn.functional.normalize(torch.cat(blocks).float(), dim=1))
    return torch.stack(rows).numpy()
