"""The norm of the training features, recorded where stage 1 was not trained on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featbank import Bank, BankWriter, errors, write_bank
from featbank.bank import HoldOut, schema
from featbank.bank.split import split_shards, split_val
from featbank.bank.verify import verify
from tests.conftest import Run, Toy
from tests.featbank.test_verify import by_status, changed, sealed

Make = Callable[..., Toy]


def norm_of(x: np.ndarray) -> float:
    """Reference: by the formula, in float64."""
    return float(np.sqrt(np.square(x.astype(np.float64)).sum(-1).mean()))


@pytest.mark.parametrize(
    ("options", "views"),
    [
        ({"classifier": None}, ["instance", "balanced"]),
        ({}, []),
        ({"seen": {"train": False}}, []),
        ({"classifier": None, "seen": {"train": True}}, []),
        ({"classifier": None, "seen": {"train": np.arange(222) == 7}}, []),
        ({"classifier": "balanced"}, []),
        ({"classifier": "balanced", "seen": {"train": False}}, ["instance"]),
    ],
)
def test_views_with_a_norm(
    make_toy: Make, tmp_path: Path, options: dict[str, Any], views: list[str]
) -> None:
    """Those without a classifier, their own or that of instance, where no row of train is seen."""
    toy = make_toy()
    if options.get("classifier") == "balanced":
        options = {**options, "classifier": {"balanced": toy.classifier}}
    with Bank(toy.write(tmp_path / "b.h5", **options)) as bank:
        assert [view for view in bank.views if bank.norm(view) is not None] == views
        assert bank.schema == (3 if views else 2 if "seen" in options else 1)
        for view in views:
            assert bank.norm(view) == pytest.approx(norm_of(toy.features["train"][view]), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_norm_depends_on_the_features_alone(tmp_path: Path, dtype: str) -> None:
    """All copies as stored, to the bit, however the rows arrive: the fingerprint covers it."""
    x = (np.random.default_rng(0).normal(size=(3, 5000, 40)) * 30).astype(np.float32)
    fingerprints = set()
    for step, together in ((5000, False), (77, False), (1300, True)):
        path = tmp_path / f"{step}.h5"
        with BankWriter(path, ["a", "b"], dim=40, dtype=dtype) as writer:
            writer.split("train", np.arange(5000) % 2)
            rows = writer.features("train", "instance", copies=3)
            for part in [x] if together else [x[:1], x[1:2], x[2:]]:
                for start in range(0, 5000, step):
                    block = part[:, start : start + step]
                    rows.append(block if together else block[0])
        with Bank(path) as bank:
            assert bank.norm() == pytest.approx(norm_of(x.astype(dtype)), rel=1e-6)
            fingerprints.add(bank.fingerprint)
    assert len(fingerprints) == 1


def test_a_derived_bank_has_its_own(make_toy: Make, tmp_path: Path) -> None:
    """Rows held out no longer count; shards joined again have that of the whole."""
    from featbank.bank.merge import merge

    toy = make_toy(splits=("train", "test"))
    path = toy.write(tmp_path / "b.h5", classifier=None)
    split_val(path, tmp_path / "v.h5", HoldOut(2))
    with Bank(tmp_path / "v.h5") as bank, Bank(path) as whole:
        assert bank.norm() == pytest.approx(norm_of(bank.load("train")[0]), rel=1e-6)
        assert bank.norm() != whole.norm()
    shards = split_shards(path, tmp_path, 3)
    merge(shards, tmp_path / "m.h5")
    with Bank(tmp_path / "m.h5") as bank, Bank(path) as whole:
        assert bank.fingerprint == whole.fingerprint


def test_verify_recomputes_it(make_toy: Make, tmp_path: Path) -> None:
    """A wrong norm under right digests is found, and told with the right one."""
    toy = make_toy()
    path = toy.write(tmp_path / "b.h5", classifier=None)
    assert not by_status(verify(path), "failed")
    right = norm_of(toy.features["train"]["balanced"])
    sealed(path, changed("scale/balanced/norm", 0, 2 * right))
    ((name, (finding,)),) = by_status(verify(path), "failed").items()
    assert name == "norm"
    assert finding.startswith("balanced: the stored norm is ")
    assert f"train has {right:.5g}" in finding


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_what_is_no_norm_is_refused(make_toy: Make, tmp_path: Path, value: float) -> None:
    """As damage, where it is read; verify names it."""
    path = make_toy().write(tmp_path / "b.h5", classifier=None)
    sealed(path, changed("scale/instance/norm", 0, value))
    with Bank(path) as bank, pytest.raises(errors.Corrupt, match="scale/instance/norm is "):
        bank.norm()
    assert by_status(verify(path), "failed") == {
        "norm": ("scale/instance/norm: 1 row negative, NaN or infinite, first 0",)
    }


def test_a_norm_of_another_shape_is_refused(make_toy: Make, tmp_path: Path) -> None:
    """When the bank is opened."""
    path = make_toy().write(tmp_path / "b.h5", classifier=None)
    name = "scale/instance/norm"
    with h5py.File(path, "r+", libver=schema.LIBVER) as file:
        del file[name]
        file.create_dataset(name, data=np.ones(2, np.float32), chunks=(2,), fletcher32=True)
    with pytest.raises(errors.Corrupt, match=r"scale/instance/norm has shape \[2\], not \[1\]"):
        Bank(path)


def test_features_of_zeros_and_no_rows(tmp_path: Path) -> None:
    """Norm 0."""
    for rows in (0, 4):
        path = tmp_path / f"{rows}.h5"
        labels = {"train": np.arange(rows) % 2, "test": np.arange(4) % 2}
        features = {s: {"instance": np.zeros((len(y), 3), np.float32)} for s, y in labels.items()}
        write_bank(path, features, labels, class_names=["a", "b"])
        with Bank(path) as bank:
            assert bank.norm() == 0


def test_info_shows_it(featbank: Run, make_toy: Make, tmp_path: Path) -> None:
    """With what follows from it."""
    toy = make_toy()
    toy.write(tmp_path / "b.h5", classifier=None)
    right = norm_of(toy.features["train"]["instance"])
    shown = featbank("info", "b.h5").stdout
    assert f"no BatchNorm statistics; norm {right:.4g}, scaled by default" in shown
    toy.write(tmp_path / "c.h5")
    assert "norm " not in featbank("info", "c.h5").stdout.replace("BatchNorm", "")
