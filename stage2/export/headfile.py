"""``head.safetensors``: an exported head, and `load_head`, which makes a module of it.

Tensors are named as in their form (`stage2.export.forms`), ``input_scale`` and ``input_shift``
among them where it scales features, with ``VIEW.`` before the name if there are several views;
those of a calibration are ``calibration.scale`` and ``calibration.shift``. The rest is JSON in the
file's metadata under ``featbank-head``: the fields of `HeadFacts`, ``schema``, ``forms`` and
``average``. It is a single entry because safetensors writes several in any order, and the same head
is to be the same bytes. Everything is checked before a module is made; ``digest`` is the SHA-256 of
everything else, so no changed bit goes unnoticed. Heads of schema 1 have none. Schema 3
adds ``prior``, `stage2.export.headprior.HeadPrior`, and its tensor; a head that scales features has
schema 4, with a prior or without, one whose views have other than equal ``shares`` schema 6, one
with ``inputs`` or rows of length 1 schema 7, one with class groups of its bank's own, ``members``,
schema 8, one with a ``background`` class schema 9, and one with a form of `LATER` the schema there.
The lowest schema that holds a head is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from featbank import errors
from featbank.file_kinds import mistaken
from featbank.files import replacing
from featbank.regular import kind_of
from stage2.export.facts import HeadFacts
from stage2.export.form import SPACE, Form
from stage2.export.forms import FORMS, INPUT, AveragedHeads, HeadModule, Scaled
from stage2.export.headprior import read_head_prior
from stage2.export.inputs import Inputs, read_inputs

KEY = "featbank-head"
UNCHECKED, WITHOUT_PRIOR, SCALED, OF_UNITS = 1, 2, 4, 7
"""The schemas of heads without a digest; that do not know the prior of their outputs; that scale
features; and that take rows of length 1."""

SINCE = {"digest": 2, "prior": 3, "shares": 6, "inputs": 7, "members": 8, "background": 9}
"""Fields that not every head has, each by the schema of heads that have it."""

SCHEMA = max(SINCE.values())
"""The newest."""

LATER = {
    "gated_cosine": 5,
    "quadratic": 7,
    "kernels": 7,
    "attentive": 7,
    "pooled": 7,
    "projected": 7,
    "cache": 7,
}
"""Forms that later schemas added."""

_CALIBRATION = ("calibration.scale", "calibration.shift")


_TOLD = [each for each in fields(HeadFacts) if each.name not in SINCE]
"""The fields that every head has."""


class LoadedHead(HeadModule):
    """A head on one view, features [B, D] to logits [B, K], with its `facts`."""

    facts: HeadFacts


class LoadedHeads(AveragedHeads):
    """A head on each of several views, a tuple of features to logits, with its `facts`."""

    facts: HeadFacts


def save_head(
    path: str | os.PathLike[str], module: HeadModule | AveragedHeads, facts: HeadFacts
) -> None:
    """Write a head file atomically.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    forms, average, parameters = _parts(module, facts.views)
    tensors = {name: values.detach().cpu() for name, values in parameters.items()}
    told = {each.name: getattr(facts, each.name) for each in _TOLD}
    document = {"schema": WITHOUT_PRIOR, **told, "forms": forms, "average": average}
    more: dict[str, Any] = {}
    if facts.prior is not None:
        more["prior"] = facts.prior.document
        tensors |= facts.prior.tensors
    if isinstance(module, AveragedHeads) and module.shares is not None:
        more["shares"] = list(module.shares)
    if facts.inputs:
        more["inputs"] = [[part.document for part in parts] for parts in facts.inputs]
    if facts.members:
        more["members"] = facts.members
    if facts.background is not None:
        more["background"] = facts.background
    document |= more
    added = [LATER.get(form["form"], UNCHECKED) for form in forms]
    added += [SINCE[name] for name in more]
    added += [SCALED for name in tensors if name.rpartition(".")[2] in INPUT]
    added += [OF_UNITS for name in tensors if name.endswith("input_unit")]
    document["schema"] = max(WITHOUT_PRIOR, *added)
    document["digest"] = _digest(document, tensors)
    metadata = {KEY: json.dumps(document, ensure_ascii=False, allow_nan=False)}
    with replacing(Path(path)) as part:
        part.write_bytes(save(tensors, metadata))


def load_head(path: str | os.PathLike[str]) -> LoadedHead | LoadedHeads:
    """An exported head as a module: features [B, D] float32 to logits [B, K], or maps [B, D, H, W]
    of features to [B, K, H, W].

    A head of several views, or of views made of others, takes a tuple of features in the order of
    ``facts.arrays``. Weights are parameters, so that it can be fine-tuned; `facts` holds classes,
    recipe and metrics.

    Parameters
    ----------
    path
        A file of `featbank export`.

    Raises
    ------
    ConfigError
        For a file that is missing, not a head, of a newer schema, or damaged.

    Warns
    -----
    UserWarning
        For a head without a digest, in which a changed weight would go unnoticed.
    """
    path = Path(path)
    if kind := kind_of(path):
        raise errors.ConfigError(
            f"{path} is {kind}, not a head. Give a file that `featbank export` made."
        )
    if not path.is_file():
        raise errors.ConfigError(f"{path}: no such file. Make it with `featbank export`.")
    text, tensors = _read(path)
    try:
        document = json.loads(text)
        schema = _value(document, "schema", "int")
        if schema > SCHEMA:
            raise errors.ConfigError(
                f"{path} has head schema {schema}, this version reads up to {SCHEMA}. "
                "Update featbank."
            )
        facts = HeadFacts(**{f.name: _value(document, f.name, f.type) for f in _TOLD})
        forms, average = _value(document, "forms", "list"), _value(document, "average", "str")
        rest = dict(tensors)
        if schema == SINCE["prior"] or (schema > SINCE["prior"] and "prior" in document):
            prior = read_head_prior(document["prior"], rest, len(facts.class_names))
            facts = replace(facts, prior=prior)
        if "inputs" in document:
            facts = replace(facts, inputs=read_inputs(document["inputs"], len(facts.views)))
        for name, kind in (("members", "list"), ("background", "int")):
            if name in document:
                facts = replace(facts, **{name: _value(document, name, kind)})
        _check_classes(facts)
        shares = _value(document, "shares", "list") if "shares" in document else None
        module = _module(facts, forms, (average, shares), rest)
        _check_digest(document, schema, tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise errors.ConfigError(
            f"{path} is a broken head: {reason}. Export it again with `featbank export`."
        ) from None
    if schema == UNCHECKED:
        warnings.warn(
            f"{path} is a head of an older version, without a digest: it is unchecked whether its "
            "weights are as they were. Export it again with `featbank export`.",
            stacklevel=2,
        )
    return module


def _check_classes(facts: HeadFacts) -> None:
    """Raise `ValueError` for class groups that are none, and a background that is no class or in a
    group."""
    members, k, classes = facts.members, facts.background, len(facts.class_names)
    if members:
        if [type(each) for each in members] != [int] * classes:
            raise ValueError(f"members are not {classes} integers")
        try:
            groups = facts.class_groups
        except (errors.FeatbankError, OverflowError):
            groups = None
        if groups is None:
            raise ValueError("its class groups are none")
    if k is not None and not 0 <= k < classes:
        raise ValueError(f"its background is class {k} of {classes}")
    if k is not None and members and members[k] >= 0:
        raise ValueError("its background is in a class group")


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The JSON document of a head, and its tensors."""
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError:
        raise
    except Exception:  # a lying header raises whatever it leads to
        if message := mistaken(path, "head"):
            raise errors.ConfigError(message) from None
        raise errors.ConfigError(
            f"{path} is not a safetensors file, or a damaged one. Copy it again, or make one with "
            "`featbank export`."
        ) from None
    if text is None:
        raise errors.ConfigError(
            f"{path} is a safetensors file, but not an exported head. "
            "Make one with `featbank export`."
        )
    return text, tensors


def _check_digest(document: Any, schema: int, tensors: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` for unknown fields, or a digest that does not match the rest."""
    known = {"schema", "forms", "average", *(field.name for field in _TOLD)}
    known |= {name for name, since in SINCE.items() if schema >= since}
    if strange := document.keys() - known:
        raise ValueError(f"{min(strange)!r} is none of its fields")
    if not UNCHECKED <= schema <= SCHEMA:
        raise ValueError(f"there is no schema {schema}")
    if schema != UNCHECKED:
        rest = {name: value for name, value in document.items() if name != "digest"}
        if document["digest"] != _digest(rest, tensors):
            raise ValueError("it is not what was written, its digest is another")


def _digest(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a head's document and tensors, in hex."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name in sorted(tensors):
        values = tensors[name].contiguous()
        digest.update(f"\0{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _parts(
    module: HeadModule | AveragedHeads, views: Sequence[str]
) -> tuple[list[dict[str, Any]], str, dict[str, Tensor]]:
    """Forms, what is averaged, and tensors by name, as the file holds them."""
    forms = module.forms if isinstance(module, AveragedHeads) else [module.form]
    average = module.average if isinstance(module, AveragedHeads) else "none"
    names = {form: name for name, form in FORMS.items()}
    documents: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for view, outer in zip(views, forms, strict=True):
        scaling = dict(outer.named_buffers(recurse=False)) if isinstance(outer, Scaled) else {}
        form = outer.form if isinstance(outer, Scaled) else outer
        assert isinstance(form, Form)
        documents.append({"form": names[type(form)], **form.options})
        prefix = f"{view}." if len(views) > 1 else ""
        parameters = {**form.state_dict(), **scaling}
        tensors |= {f"{prefix}{name}": values for name, values in parameters.items()}
    calibration = zip(_CALIBRATION, (module.scale, module.shift), strict=True)
    return documents, average, tensors | {n: v for n, v in calibration if v is not None}


def _module(
    facts: HeadFacts,
    forms: list[Any],
    averaging: tuple[str, list[Any] | None],
    tensors: dict[str, Tensor],
) -> LoadedHead | LoadedHeads:
    """The module, of parts that are all checked; raises `ValueError` for one that is wrong."""
    views, classes = facts.views, len(facts.class_names)
    several, (average, shares) = len(views) > 1, averaging
    if not classes or facts.dim < 1:
        raise ValueError(f"it has K = {classes} classes and D = {facts.dim} features")
    if len(forms) != len(views) or not views or average not in _averages(several):
        raise ValueError("views, forms and average contradict each other")
    if shares is not None and not _are_shares(shares, len(views) if several else 0):
        raise ValueError("its shares are not one > 0 for each view, of sum 1")
    for name in ("class_names", "views"):
        if not all(isinstance(text, str) for text in getattr(facts, name)):
            raise ValueError(f"{name} are not all text")
    made, widths = [], [sum(part.width for part in parts) for parts in facts.inputs]
    for view, form, dim in zip(views, forms, widths or [facts.dim] * len(views), strict=True):
        prefix, sizes = f"{view}." if several else "", {"K": classes, "D": dim, "1": 1}
        made.append(_scaled(_form(dict(form), tensors, prefix, sizes), tensors, prefix, sizes))
    scale, shift = (tensors.pop(name, None) for name in _CALIBRATION)
    if scale is not None:
        _check(_CALIBRATION[0], scale, torch.float32, [(1,), (classes,)])
    if shift is not None:
        _check(_CALIBRATION[1], shift, torch.float32, [(classes,)])
    if tensors:
        raise ValueError(f"{min(tensors)} is none of its tensors")
    module: LoadedHead | LoadedHeads
    if several:
        module = LoadedHeads(made, average, scale, shift, shares)
    else:
        module = LoadedHead(made[0], scale, shift)
    module.facts = facts
    module.inputs = Inputs(facts.inputs) if facts.inputs else None
    return module.eval()


def _are_shares(shares: list[Any], count: int) -> bool:
    """Whether these are the shares of so many views."""
    right = len(shares) == count and all(isinstance(s, float) and s > 0 for s in shares)
    return right and abs(sum(shares) - 1) < 1e-6


def _averages(several: bool) -> tuple[str, ...]:
    return ("probabilities", "logits") if several else ("none",)


def _scaled(
    form: Form, tensors: dict[str, Tensor], prefix: str, sizes: Mapping[str, int]
) -> Form | Scaled:
    """The form behind the scale of its features, if there is one."""
    scaling = {
        name: tensors.pop(f"{prefix}{name}") for name in INPUT if f"{prefix}{name}" in tensors
    }
    for name, values in scaling.items():
        _check(f"{prefix}{name}", values, torch.float32, [(sizes[axis],) for axis in INPUT[name]])
    if scaling and "input_scale" not in scaling:
        raise ValueError(f"{prefix}input_shift has no input_scale")
    return Scaled(form, scaling) if scaling else form


def _form(
    options: dict[str, Any], tensors: dict[str, Tensor], prefix: str, sizes: Mapping[str, int]
) -> Form:
    """The form of one view; its tensors are popped from `tensors`."""
    kind = options.pop("form")
    if kind not in FORMS:
        raise ValueError(f"form {kind!r} is none of {', '.join(FORMS)}")
    form = FORMS[kind]
    checks = {**form.allowed, **SPACE}
    if options.keys() != checks.keys():
        raise ValueError(f"form {kind!r} has the options {', '.join(options)}")
    for name, allowed in checks.items():
        if not allowed(options[name]):
            raise ValueError(f"{name} of form {kind!r} is {options[name]!r}")
    if options.get("parts") and sizes["D"] % options["parts"]:
        raise ValueError(f"{options['parts']} parts do not divide D = {sizes['D']}")
    known, arrays = dict(sizes), {}
    for name, axes in form.shapes.items():
        values = arrays[name] = tensors.pop(f"{prefix}{name}")
        if values.dim() == len(axes):
            for axis, size in zip(axes, values.shape, strict=True):
                known.setdefault(axis, size)
        dtype = {"empty": torch.bool, "labels": torch.int64}.get(name, torch.float32)
        _check(f"{prefix}{name}", values, dtype, [tuple(known.get(a, -1) for a in axes)])
    if "E" in known and (not known["E"] or known["D"] % known["E"]):
        raise ValueError(f"tokens of {known['E']} features do not divide D = {known['D']}")
    labels = arrays.get("labels")
    if labels is not None and not (len(labels) and 0 <= labels.min() <= labels.max() < known["K"]):
        raise ValueError(f"{prefix}labels are not all in 0…{known['K'] - 1}")
    return form(arrays, options)


def _check(
    name: str, values: Tensor, dtype: torch.dtype, shapes: Sequence[tuple[int, ...]]
) -> None:
    """Raise if a tensor has another type, none of the `shapes`, or values that are not finite."""
    if values.dtype != dtype:
        raise ValueError(f"{name} is {values.dtype}, not {dtype}")
    if tuple(values.shape) not in shapes:
        options = " or ".join(map(str, shapes))
        raise ValueError(f"{name} has shape {tuple(values.shape)}, not {options}")
    if dtype == torch.float32 and not values.isfinite().all():
        raise ValueError(f"{name} is not finite")


def _value(document: Mapping[str, Any], name: str, kind: Any) -> Any:
    """A value of the document; raises `ValueError` unless it has the declared type."""
    value, wanted = document[name], str(kind).partition("[")[0]
    if type(value).__name__ != wanted:
        raise ValueError(f"{name} is no {wanted}")
    return value
