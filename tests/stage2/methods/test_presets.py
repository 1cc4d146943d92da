"""Presets against the table of METHODS §10, written out here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stage2.methods.bibliography import BIBLIOGRAPHY
from stage2.methods.heads import HEADS
from stage2.methods.losses import LOSSES
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe

_SGD = {"optimiser": "sgd", "momentum": 0.9, "nesterov": False, "warmup": 0, "seed": 0}


def row(parts: str, hyper: tuple[float, float, int], schedule: tuple[str, int]) -> dict[str, Any]:
    """A row of the table: ``head loss sampler view``; lr, decay, batch; schedule, epochs."""
    names = dict(zip(("head", "loss", "sampler", "view"), parts.split(), strict=True))
    numbers = dict(zip(("lr", "weight_decay", "batch_size"), hyper, strict=True))
    return {**_SGD, **names, **numbers, "schedule": schedule[0], "epochs": schedule[1]}


def mislas(smooth: tuple[float, float], delta_lr: float, view: str, **other: Any) -> dict[str, Any]:
    """A MiSLAS row: CIFAR's lr, decay and batch but for `other`."""
    plain = row(f"mislas las class_aware {view}", (0.1, 2e-4, 128), ("cosine", 10))
    ends = {"smooth_head": smooth[0], "smooth_tail": smooth[1], "delta_lr": delta_lr}
    return {**plain, **ends, "smooth_shape": "concave", "smooth_over": "uniform", **other}


_LTWB = row("linear cb_bce instance instance", (0.01, 0.1, 64), ("cosine_prestep", 10)) | {
    "init": "stage1",
    "beta": 0.9999,
    "max_norm_fraction": 0.1,
}

TABLE: dict[str, dict[str, Any]] = {
    "crt": row("linear ce class_aware instance", (0.2, 5e-4, 512), ("cosine", 10))
    | {"init": "fresh", "per_class": 4},
    "crt-cifar": row("linear ce class_aware instance", (0.1, 5e-4, 128), ("cosine", 10)),
    "lws": row("lws ce class_aware instance", (0.2, 5e-4, 512), ("cosine", 5)),
    "lws-cifar": row("lws ce class_aware instance", (0.1, 5e-4, 128), ("cosine", 10)),
    "mislas": mislas((0.4, 0.1), 0.2, "balanced"),
    "mislas-cifar100-if50": mislas((0.3, 0.0), 0.1, "balanced"),
    "mislas-cifar100-if10": mislas((0.2, 0.0), 0.1, "balanced"),
    "mislas-cifar10-if100": mislas((0.3, 0.0), 0.5, "instance"),
    "mislas-cifar10-if50": mislas((0.2, 0.0), 0.2, "instance"),
    "mislas-cifar10-if10": mislas((0.1, 0.0), 0.2, "instance"),
    "mislas-imagenet": mislas((0.4, 0.1), 0.05, "balanced", weight_decay=5e-4, batch_size=256),
    "mislas-inaturalist": mislas(
        (0.4, 0.1), 0.05, "balanced", weight_decay=1e-4, batch_size=256, epochs=30
    ),
    "mislas-places": mislas((0.4, 0.1), 0.05, "balanced", weight_decay=5e-4, batch_size=256),
    "mislas-imagenet-released": mislas(
        (0.3, 0.0), 0.05, "balanced", weight_decay=5e-4, batch_size=256
    ),
    "mislas-inaturalist-released": mislas(
        (0.3, 0.0), 0.05, "balanced", weight_decay=1e-4, batch_size=256
    ),
    "disalign": row("disalign weighted instance instance", (0.1, 5e-4, 256), ("cosine", 10))
    | {"rho": 1.2, "init": "identity", "normalise": "weights"},
    "disalign-cosine": row("disalign weighted instance instance", (0.1, 5e-4, 256), ("cosine", 10))
    | {"rho": 1.2, "init": "identity", "normalise": "weights", "z0": "cosine", "z0_scale": 16.0},
    "los": row("linear los instance instance", (5e-4, 0.0, 64), ("cosine", 20))
    | {"init": "stage1", "smoothing": 0.98, "smooth_over": "uniform"},
    "balanced_softmax": row(
        "linear balanced_softmax instance instance", (0.1, 5e-4, 512), ("cosine_prestep", 10)
    )
    | {"init": "fresh"},
    "ldam-linear": row("linear ldam instance instance", (0.1, 5e-4, 128), ("cosine", 10))
    | {"init": "fresh", "scale": 1.0, "max_margin": 0.5, "exponent": 0.25, "defer": 0},
    "ldam": row("cosine ldam instance instance", (0.1, 2e-4, 128), ("cosine", 10))
    | {"init": "fresh", "head.scale": 30.0, "loss.scale": 30.0, "max_margin": 0.5, "defer": 0},
    **{
        loss: row(f"linear {loss} instance instance", (0.1, 5e-4, 128), ("cosine", 10))
        | {"init": "fresh"}
        for loss in (
            "ce",
            "focal",
            "cb_focal",
            "weighted",
            "class_balanced",
            "logit_adjusted",
            "gradual",
            "las",
            "vs",
            "sigmoid_focal",
            "distil",
        )
    },
    "sla": row("linear sla instance instance", (0.01, 5e-4, 128), ("cosine", 20))
    | {"init": "stage1", "gamma": 1.0, "tau": 1.0, "tau_prior": 1.0},
    "glag": row("lws distil instance instance", (0.1, 5e-4, 128), ("cosine", 40))
    | {"generator": "afg", "beta": 0.6, "beta_step": 0.05, "gamma": 0.1, "support": 2}
    | {"distil_weight": 0.0, "distil_weight_end": 1.0, "distil_weight_base": 2.0}
    | {"temperature": 2.0, "temperature_end": None},
    **{
        f"logit_adjusted-{name}": row(
            "linear logit_adjusted instance instance", (0.1, 5e-4, 128), ("cosine", 10)
        )
        | {"rho": 0.0, "beta": 0.0, "gamma": 0.0, "tau": 1.0, "defer": 0, **weights}
        for name, weights in (
            ("rw", {"rho": 1.0}),
            ("cb", {"beta": 0.9999}),
            ("fl", {"gamma": 2.0}),
        )
    },
    "cb_bce": row("linear cb_bce instance instance", (0.1, 5e-4, 128), ("cosine", 10))
    | {"init": "stage1", "beta": 0.9999, "max_norm_fraction": None},
    "gcl": row("cosine gcl class_balanced instance", (0.004, 2e-4, 64), ("cosine", 30))
    | {"init": "stage1", "head.scale": 20.0, "loss.scale": 20.0, "margin": 0.1, "cloud": 0.5}
    | {"gamma": 1.0, "generator": "mixup", "alpha": 1.0},
    "vmf": row("vmf balanced_softmax instance instance", (0.1, 5e-4, 256), ("cosine", 10))
    | {"init": "fresh", "concentration": 16.0, "decay_bias": False},
    "dot_regression": row("etf dot_regression instance instance", (0.1, 2e-4, 128), ("cosine", 10))
    | {"head.scale": 1.0, "loss.scale": 1.0},
    "samn": row("samn ce instance instance", (5e-4, 0.0, 64), ("cosine", 20)) | {"init": "stage1"},
    "h2t": row("linear ce class_balanced balanced", (0.02, 5e-4, 128), ("cosine", 10))
    | {"init": "stage1", "generator": "h2t", "rho": 0.25},
    "lade": row("linear lade instance instance", (0.1, 5e-4, 128), ("cosine", 10))
    | {"alpha": 0.1, "penalty": 0.01},
    "max_norm": {**{k: v for k, v in _LTWB.items() if k != "beta"}, "loss": "ce"},
    "ltwb": _LTWB | {"max_norm_when": "step"},
    "ltwb-released": _LTWB | {"max_norm_when": "epoch"},
    "alf": {
        **{"head": "attentive", "queries": 0, "values": 2, "token_norm": "layer"},
        **{"loss": "weighted", "rho": 1.0, "optimiser": "adamw", "lr": 1e-3, "weight_decay": 0.01},
        **{"batch_size": 2048, "schedule": "cosine_step", "epochs": 40},
    },
    "oracle": row("linear ce instance instance", (0.1, 5e-4, 128), ("cosine", 10))
    | {"init": "fresh", "train_on": "train_balanced"},
    **{
        head: row(f"{head} ce instance instance", (0.1, 5e-4, 128), ("cosine", 10))
        for head in ("cosine", "tde", "mlp", "pooled", "attentive")
    },
    "stage1": {"head": "logit_adjust", "tau": 0.0, "view": "instance"},
    "tau_norm": {"head": "tau_norm", "view": "instance"},
    "logit_adjust": {"head": "logit_adjust", "view": "instance"},
    "ncm": {"head": "ncm", "view": "instance"},
    "knn": {"head": "knn", "view": "instance"},
    "ridge": {"head": "ridge", "view": "instance"},
    "lda": {"head": "lda", "view": "instance"},
}


def test_the_table_has_every_preset() -> None:
    """Reference: METHODS §10; a preset without its row here is that of a loss or head."""
    assert set(TABLE) <= set(PRESETS), f"no preset: {set(TABLE) - set(PRESETS)}"
    assert set(PRESETS) - set(TABLE) <= {*LOSSES, *HEADS}


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_is_its_row(name: str) -> None:
    """Reference: METHODS §10."""
    got = Recipe(name).settings
    for setting, value in TABLE[name].items():
        assert got[setting] == value, f"{setting} of {name}: got {got[setting]}, expected {value}"


def test_variants_are_marked() -> None:
    """Reference: a sweep that names no recipe leaves variants out, `name-dataset`."""
    variants = {name for name, preset in PRESETS.items() if preset.variant}
    assert variants == {name for name in PRESETS if "-" in name}, f"got {variants}"
    assert all(name.split("-")[0] in PRESETS for name in variants)


def test_every_preset_tells_what_it_is() -> None:
    """Reference: `featbank methods` and `featbank cite` need a line and a key."""
    for name, preset in PRESETS.items():
        assert preset.description, f"{name} has no description"
        assert preset.source, f"{name} has no source"
        assert "\n" not in preset.description
    used = {preset.settings.get("loss") for preset in PRESETS.values()}
    assert set(LOSSES) <= used, f"no preset uses {set(LOSSES) - used}"
    heads = {preset.settings["head"] for preset in PRESETS.values()}
    assert set(HEADS) == heads, f"no preset uses {set(HEADS) - heads}"


def test_no_two_presets_are_silently_the_same() -> None:
    """Reference: all settings of each; of equal presets all but one name one of the others."""
    equal: dict[str, list[str]] = {}
    for name in PRESETS:
        key = json.dumps(Recipe(name).settings, sort_keys=True)
        equal.setdefault(key, []).append(name)
    for names in equal.values():
        silent = [name for name in names if PRESETS[name].same_as not in names]
        assert len(silent) == 1, f"{names} have the same settings, {silent} do not say so"
    assert PRESETS["mislas-places"].same_as == "mislas-imagenet"


def test_every_preset_says_where_its_settings_come_from() -> None:
    """Reference: METHODS §10, paper (with the table), release or ours."""
    for name, preset in PRESETS.items():
        assert preset.origin in ("paper", "release", "ours"), name
        assert preset.provenance.startswith(preset.origin), name
    origins = {name: PRESETS[name].provenance for name in PRESETS}
    assert origins["mislas-inaturalist"] == "paper, Table 6"
    assert origins["mislas-places"] == "paper, Table 6, the same as mislas-imagenet"
    assert origins["mislas-imagenet-released"] == "release"
    for name in ("ce", "sla", "ldam", "crt-cifar", "oracle", "cb_bce", *HEADS.keys() - {"linear"}):
        if name not in ("lws", "mislas", "disalign", "samn"):
            assert PRESETS[name].origin == "ours", name


def test_a_figure_stands_under_the_paper_that_reports_it() -> None:
    """Reference: METHODS §11, the table of LOS's shared backbone and those of MiSLAS."""
    los = {"balanced_softmax": 52.23, "ldam-linear": 52.94, "max_norm": 51.64, "cosine": 52.2}
    los |= {"tau_norm": 53.01, "logit_adjust": 52.45}
    for name, preset in PRESETS.items():
        assert set(preset.reported) <= set(BIBLIOGRAPHY), name
        shared = [
            top1
            for benchmark, top1 in preset.reported.get("los", {}).items()
            if "shared backbone" in benchmark
        ]
        assert shared == ([los[name]] if name in los else []), name
    assert not PRESETS["sla"].reported, "54.6 is of SLA's stage 1"
    assert not PRESETS["ldam"].reported, "52.94 is of a linear classifier"
    assert PRESETS["mislas-imagenet"].reported == {"mislas": {"ImageNet-LT ResNet-50": 52.7}}
    assert list(PRESETS["crt-cifar"].reported) == ["mislas"]
