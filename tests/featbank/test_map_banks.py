"""Banks with whole maps of val and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featbank import Bank, errors, write_bank
from featbank.bank import HoldOut
from featbank.bank.amend import amend
from featbank.bank.maps import MapArrays
from featbank.bank.merge import merge
from featbank.bank.split import split_shards, split_val
from featbank.bank.verify import verify
from tests.conftest import Run

SIZES = [(6, 4, 3, 2), (5, 7, 2, 3), (3, 3, 3, 3)]
"""H, W, h and w of three maps."""
IDS = np.array([3, 9, 7])


def arrays(views: tuple[str, ...] = ("instance",)) -> dict[str, MapArrays]:
    """Maps of test, of several sizes, with pixels to leave out."""
    rng = np.random.default_rng(1)
    labels = [rng.integers(-1, 3, size[:2]) for size in SIZES]
    features = {v: [rng.normal(size=(*size[2:], 4)) for size in SIZES] for v in views}
    return {"test": MapArrays(np.array([5, 2, 9]), labels, features)}


def write(path: Path, views: tuple[str, ...] = ("instance",), **changed: Any) -> Path:
    """A bank with maps of test, but for what is `changed`."""
    rng = np.random.default_rng(0)
    labels = {"train": np.arange(24) % 3}
    features = {"train": {view: rng.normal(size=(24, 4)) for view in views}}
    options = {"maps": arrays(views), "map_ids": IDS, "class_names": list("abc"), **changed}
    write_bank(path, features, labels, **options)
    return path


def test_maps_are_read_back(tmp_path: Path) -> None:
    """Labels as they were, features rounded to float16; the rows stay float32."""
    expected = arrays()["test"]
    with Bank(write(tmp_path / "bank.h5")) as bank:
        maps = bank.maps("test")
        assert (bank.schema, bank.dtype, bank.maps("val"), list(bank.mapped)) == (
            6,
            "float32",
            None,
            ["test"],
        )
        assert bank.map_ids.tolist() == IDS.tolist()
        assert maps.images.tolist() == [5, 2, 9]
        assert maps.sizes.tolist() == [list(size) for size in SIZES]
        for some, first in ((maps, 0), (maps[1:], 1)):
            for m in range(len(some)):
                x = expected.features["instance"][first + m].astype(np.float16)
                np.testing.assert_array_equal(some.features(m), x)
                np.testing.assert_array_equal(some.labels(m), expected.labels[first + m])
        with pytest.raises(errors.ConfigError, match="the maps of test have no view 'other'"):
            maps.features(0, "other")


def test_features_keep_the_type_that_is_asked_for(tmp_path: Path) -> None:
    """float32 where the bank is written in it."""
    with Bank(write(tmp_path / "bank.h5", dtype="float32")) as bank:
        assert bank.maps("test").features(0).dtype == np.float32


def test_verify_reads_maps(tmp_path: Path, featbank: Run) -> None:
    """Everything is right, the command shows it, and a label that is none is found."""
    path = write(tmp_path / "bank.h5")
    checks = {check.name: check for check in verify(path)}
    assert {check.status for check in checks.values()} <= {"ok", "note"}
    assert checks["labels"].detail == "24 rows, each in 0…2; 3 maps of test"
    assert "test has 3 whole maps, 68 pixels on 21 cells" in featbank("info", str(path)).stdout
    with h5py.File(path, "r+") as file:
        file["maps/test/label"][30] = 3
    found = {check.name: check for check in verify(path)}["labels"]
    assert found.status == "failed"
    assert "maps/test/label: label 3 of pixel 30 is outside -1…2" in found.findings[0]


def test_copies_keep_maps(tmp_path: Path) -> None:
    """Shards merge to the same bank, an amended bank has the same maps."""
    path = write(tmp_path / "bank.h5")
    shards = split_shards(path, tmp_path / "shards", 2)
    merge(shards, tmp_path / "merged.h5")
    amend(path, tmp_path / "amended.h5", default_scale={"instance": "unit"})
    with (
        Bank(path) as bank,
        Bank(tmp_path / "merged.h5") as merged,
        Bank(tmp_path / "amended.h5") as amended,
        Bank(shards[0]) as shard,
    ):
        assert merged.fingerprint == bank.fingerprint
        assert shard.maps("test").images.tolist() == [5]
        for name in (n for n in bank.datasets if n != "provenance"):
            assert amended.digest(name) == bank.digest(name), name


def test_views_side_by_side(tmp_path: Path) -> None:
    """Maps of two views become one; they must be of the same images."""
    both = write(tmp_path / "both.h5", ("a", "b"))
    with Bank(both) as bank:
        rows = {view: bank.load("train", view)[0] for view in bank.views}
    paths = []
    for view in ("a", "b"):
        own = arrays(("a", "b"))["test"]
        maps = {"test": MapArrays(own.images, own.labels, {view: own.features[view]})}
        paths.append(tmp_path / f"{view}.h5")
        labels = {"train": np.arange(24) % 3}
        options: dict[str, Any] = {"map_ids": IDS, "class_names": list("abc")}
        write_bank(paths[-1], {"train": {view: rows[view]}}, labels, maps=maps, **options)
    merge(paths, tmp_path / "merged.h5")
    with Bank(tmp_path / "merged.h5") as merged, Bank(both) as bank:
        for name in (n for n in bank.datasets if n.startswith("maps/")):
            assert merged.digest(name) == bank.digest(name), name
    other = write(tmp_path / "other.h5", ("c",), maps=None, map_ids=None)
    with pytest.raises(errors.Mismatch, match="differ in maps/test/image: .*other.h5 has none"):
        merge([paths[0], other], tmp_path / "never.h5")


def _changed(**changes: Any) -> dict[str, MapArrays]:
    own = arrays()["test"]
    return {"test": MapArrays(**{**vars(own), **changes})}


@pytest.mark.parametrize(
    ("maps", "says"),
    [
        ({"train": arrays()["test"]}, "split of maps"),
        (_changed(images=np.array([5, -2, 9])), "maps/test/image: -2 in row 1"),
        (_changed(labels=[np.full(s[:2], 3) for s in SIZES]), "label 3 in row 0 is outside 0…2"),
        (arrays(("other",)), "maps have the view 'other', train has not"),
        (
            _changed(features={"instance": [np.zeros((*s[2:], 3)) for s in SIZES]}),
            "maps/test/instance/feature: a block has shape [6, 3]",
        ),
    ],
)
def test_what_cannot_be_written(maps: dict[str, MapArrays], says: str, tmp_path: Path) -> None:
    """One line each, and no file."""
    with pytest.raises(errors.FeatbankError) as caught:
        write(tmp_path / "bank.h5", maps=maps)
    assert says in str(caught.value)
    assert not list(tmp_path.glob("*.h5*"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("size", 0, "maps/test/size has sides outside"),
        ("size", 9, "maps/test/label has shape"),
        ("image", -4, "maps/test/image: -4 is negative"),
    ],
)
def test_what_cannot_be_read(name: str, value: int, says: str, tmp_path: Path) -> None:
    """Sizes are checked when a bank is opened, images when its maps are asked for."""
    path = write(tmp_path / "bank.h5")
    with h5py.File(path, "r+") as file:
        file[f"maps/test/{name}"][0] = value
    with pytest.raises(errors.Corrupt, match=says), Bank(path) as bank:
        bank.maps("test")


def test_a_val_of_whole_images_takes_their_maps(tmp_path: Path, featbank: Run) -> None:
    """Rows and maps of an image stay in one split; without groups the split is refused."""
    images, y = np.repeat([5, 2, 9], 6), np.arange(18) % 3
    x = np.random.default_rng(3).normal(size=(18, 4))
    path, train = tmp_path / "bank.h5", np.arange(24)
    write_bank(
        path,
        {"train": {"instance": -np.ones((24, 4)) * train[:, None]}, "test": {"instance": x}},
        {"train": train % 3, "test": y},
        source_groups={"train": train // 6 + 20, "test": images},
        maps=arrays(),
    )
    with pytest.raises(errors.ConfigError, match="Add --by-group, which moves maps"):
        split_val(path, tmp_path / "never.h5", HoldOut(per_class=2), of="test")
    split_val(path, tmp_path / "val.h5", HoldOut(per_class=2), of="test", by_group=True)
    with Bank(path) as before, Bank(tmp_path / "val.h5") as bank:
        whole = before.maps("test")
        assert whole is not None
        seen = []
        for split in ("val", "test"):
            maps, groups = bank.maps(split), bank.source_groups(split)
            assert maps is not None
            assert set(maps.images) == set(groups)
            for m, image in enumerate(maps.images):
                at = whole.images.tolist().index(image)
                np.testing.assert_array_equal(maps.labels(m), whole.labels(at))
                np.testing.assert_array_equal(maps.features(m), whole.features(at))
            seen += maps.images.tolist()
        assert sorted(seen) == [2, 5, 9]
    assert "note    sources" not in featbank("verify", "val.h5").stdout


def test_maps_of_images_that_train_has(tmp_path: Path, featbank: Run) -> None:
    """A note, as for rows."""
    write(tmp_path / "bank.h5", source_groups={"train": np.arange(24) // 2})
    told = "note    sources     train and test share 3 source groups (2, 5, 9)"
    assert told in featbank("verify", "bank.h5").stdout
