"""The settings a recipe takes: those of all recipes, and those of the parts it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featbank import errors
from featbank.settings import Setting
from stage2.methods.optimisers import OPTIMISERS, SCHEDULES
from stage2.methods.precisions import PRECISION
from stage2.methods.presets import PRESETS
from stage2.methods.registries import REGISTRIES, settings_of_part


def _part(kind: str, default: str, help: str) -> Setting:
    """The setting that names a part; ``none`` is a choice where it is the default."""
    names = tuple(REGISTRIES[kind])
    return Setting(kind, default, help, choices=names if default in names else (default, *names))


VIEW = Setting(
    "view",
    "instance",
    "features to use from the bank; a|b joins them, a:mean pools tokens, "
    "a+b averages a head on each",
)
CALIBRATION = Setting(
    "calibration",
    "none",
    "fitted on val after training: one temperature, or a scale and shift per class",
    choices=("none", "temperature", "vector"),
)
PUBLISHED_NORM = 10.6
"""Root mean square norm of the features of a ResNet-32 trained on CIFAR-100-LT, the benchmark that
most presets are published for: 10.75 of the instance view, 10.44 of the balanced one."""

UNIT = "unit"
"""The ``feature_scale`` that brings every row to one length, which all recipes on text have."""

FEATURE_SCALE = Setting(
    "feature_scale",
    None,
    "scale features to the norm the presets' rates were made for, all by one factor or each row by "
    "its own (unit), or standardise them",
    choices=("auto", "none", "standardise", UNIT),
    kind=str,
    role="bank",
    default_help="auto where stage 1 was not trained on the features; unit with text",
)
COMMON = (
    Setting("train_on", "train", "training split", choices=("train", "train_balanced")),
    FEATURE_SCALE,
    CALIBRATION,
)
"""Settings of every recipe, trained or not."""

ENSEMBLE = Setting(
    "average", "probabilities", "what to average over views", choices=("probabilities", "logits")
)
VIEW_WEIGHTS = Setting(
    "view_weights",
    None,
    "weights of the views in the average, joined by +, as 1+1+0.5",
    kind=str,
    role="bank",
    default_help="of experts those of stage 1, else equal",
)
RIDGE = Setting(
    "calibration_ridge",
    None,
    "λ of vector calibration, shrinks each class towards temperature scaling; 0 as published; "
    "1e-2 if not set, 1e-3 from 20 rows per class on",
    low=0,
    kind=float,
)
SEED = Setting("seed", 0, "seed of initialisation and batches", low=0, high=2**32 - 1)
HEAD = _part("head", "linear", "the classifier")
PARTS = (
    _part("loss", "ce", "the loss"),
    _part("sampler", "instance", "the sampler of training batches"),
    _part("generator", "none", "the generator of synthetic training features"),
    _part("optimiser", "sgd", "the optimiser"),
)
"""The parts of a recipe that trains, beside its head."""

TRAINING = (
    *PARTS,
    Setting("weight_decay", 5e-4, "weight decay of every trained parameter", low=0),
    Setting("decay_bias", True, "apply weight decay to biases too, as all released code does"),
)
"""Settings of every recipe that trains."""

STEPS = (
    Setting("lr", 0.1, "learning rate", above=0),
    Setting("schedule", "cosine", "learning-rate schedule", choices=tuple(SCHEDULES)),
    Setting("warmup", 0, "linear warm-up, in epochs", low=0),
    Setting("epochs", 10, "passes over the data", low=1),
    Setting("batch_size", 128, "rows per step", low=1),
    Setting("steps_per_epoch", None, "steps per epoch; ⌊N/B⌋ if not set", low=1, kind=int),
    PRECISION,
    SEED,
)
"""Settings of every recipe that trains step by step."""


@dataclass(frozen=True)
class Takes:
    """The settings of a recipe made of given parts.

    Attributes
    ----------
    settings
        By the name they have in the recipe: ``part.name`` where two parts share a name.
    aliases
        The key in `settings` for every accepted spelling: ``loss.gamma`` for a plain ``gamma``.
    """

    settings: dict[str, Setting]
    aliases: dict[str, str]

    @staticmethod
    def of(parts: Mapping[str, str]) -> Takes:
        """The settings of `parts`: a ``head``, and where it is trained those of `PARTS`; a ``view``
        made of several adds how they are averaged, a ``calibration`` its own."""
        parts = dict(parts)
        several = [ENSEMBLE, VIEW_WEIGHTS] if "+" in parts.pop("view", "") else []
        common = [VIEW, *several, *COMMON, HEAD]
        common += [RIDGE] if parts.pop("calibration", "none") == "vector" else []
        if "loss" in parts:
            common += TRAINING
            common += () if OPTIMISERS[parts["optimiser"]].full_batch else STEPS
        owned = [(part, s) for part, name in parts.items() for s in settings_of_part(part, name)]
        names = [s.name for _, s in owned]
        settings = {s.name: s for s in common}
        aliases = {s.name: s.name for s in common}
        for part, setting in owned:
            prefixed = f"{part}.{setting.name}"
            full = prefixed if names.count(setting.name) > 1 else setting.name
            settings[full] = setting
            aliases[prefixed] = aliases[full] = full
        return Takes(settings, aliases)


def settings_of(name: str, parameters: Mapping[str, Any]) -> Takes:
    """The settings of recipe `name`, some of whose parts `parameters` may replace.

    Raises
    ------
    ConfigError
        For an unknown recipe or part.
    """
    if name not in PRESETS:
        raise errors.ConfigError(f"Unknown recipe {name!r}. {errors.closest(name, list(PRESETS))}")
    chosen = {**PRESETS[name].settings, **parameters}
    head = HEAD.check(chosen["head"], owner(name))
    parts = {"head": head}
    for setting in (VIEW, CALIBRATION, *(PARTS if REGISTRIES["head"][head].trained else ())):
        parts[setting.name] = setting.check(chosen.get(setting.name, setting.default), owner(name))
    return Takes.of(parts)


def own_settings(settings: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The values of a part's own settings; none where the recipe has no such part."""
    names = [setting.name for setting in settings_of_part(part, settings.get(part, "none"))]
    return {n: settings.get(f"{part}.{n}", settings.get(n)) for n in names}


def uses_text(settings: Mapping[str, Any]) -> bool:
    """Whether a recipe with these settings uses text embeddings, to start from or otherwise."""
    head = REGISTRIES["head"].get(settings.get("head", ""))
    return settings.get("init") == "text" or bool(head and head.needs_text)


def owner(name: str) -> str:
    """A recipe as messages about its settings call it."""
    return f"recipe {name!r}"
