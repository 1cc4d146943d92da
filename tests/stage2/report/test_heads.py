"""What a page shows of exported heads, and of banks whose rows are pixels."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featbank import Bank, errors, write_bank
from featbank.bank.maps import MapArrays
from stage2.export.exporting import export_head
from stage2.export.headfile import load_head
from stage2.export.maps import MapClassifier
from stage2.export.prediction import predict_bank
from stage2.methods.recipe import Recipe
from stage2.plots.maps import LEFT_OUT, RIGHT, WRONG
from stage2.report import heads
from stage2.report.banks import gather_banks
from stage2.report.gathering import gather
from stage2.report.page import report
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.sweep import sweep
from tests.conftest import Run
from tests.stage2.export.test_whole_maps import NAMES, SIZES, make_bank, make_head
from tests.stage2.report.chromium import load, wait
from tests.stage2.report.test_page import Elements


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of pixels with maps of three images, results on it and a head of them."""
    folder, random = tmp_path_factory.mktemp("heads"), np.random.default_rng(0)
    features, labels = {}, {}
    for split, counts in {
        "train": (200, 90, 30, 5),
        "val": (9, 8, 7, 6),
        "test": (9, 30, 9, 0),
    }.items():
        labels[split] = np.repeat(np.arange(4), counts)
        noise = random.normal(0, 0.8, (len(labels[split]), 4))
        features[split] = {"instance": (np.eye(4)[labels[split]] + noise).astype(np.float32)}
    of_maps = [random.integers(-1, 3, size[:2]) for size in SIZES]
    cells = [random.normal(size=(*size[2:], 4)) for size in SIZES]
    write_bank(
        folder / "bank.h5",
        features,
        labels,
        class_names=NAMES,
        cells={split: np.zeros((len(y), 2), int) for split, y in labels.items()},
        maps={"test": MapArrays(np.array([4, 9, 12]), of_maps, {"instance": cells})},
        map_ids=np.arange(4),
    )
    recipes = [Recipe("ce", epochs=2), Recipe("crt", epochs=2)]
    sweep(folder / "bank.h5", recipes, results=folder / "results.sqlite")
    export_head(folder / "results.sqlite", "ce", folder / "ce.safetensors")
    return folder


def test_maps_are_pictures(folder: Path) -> None:
    """Reference: the difference of truth and predictions of the same head, pixel by pixel."""
    with Store(folder / "results.sqlite") as store:
        data = heads.gather_heads(Results(store), [folder / "ce.safetensors"])
    assert [each["image"] for each in data["maps"]["maps"]] == [4, 9, 12]
    with Bank(folder / "bank.h5") as bank:
        classifier = MapClassifier(load_head(folder / "ce.safetensors"), bank)
        for each, expected in zip(data["maps"]["maps"], classifier, strict=True):
            known = expected.truth >= 0
            right = expected.truth == expected.predicted
            grey = np.where(known, np.where(right, RIGHT, WRONG), LEFT_OUT)
            (difference,) = map(picture, each["difference"])
            np.testing.assert_array_equal(difference[..., 0], (255 * grey).round())
            same = (picture(each["truth"]) == picture(each["predicted"][0])).all(-1)
            assert (same == right)[known].all()
            assert each["right"] == [pytest.approx(100 * right[known].mean(), abs=0.06)]


def picture(data: str) -> np.ndarray:
    """A PNG in base64 as an array [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_large_maps_are_thinned() -> None:
    """Reference: every third pixel of a picture three times as large as is carried."""
    image = np.zeros((3 * heads.LONGEST, 30, 3))
    image[::3, ::3, 1] = 1
    thinned = picture(heads.png(image))
    assert thinned.shape == (heads.LONGEST, 10, 3)
    assert (thinned == (0, 255, 0)).all()


def test_iou_by_class(folder: Path) -> None:
    """Reference: a loop over the classes, on the predictions of the exported head."""
    with Store(folder / "results.sqlite") as store:
        data = gather(Results(store))
    (id_,) = (id_ for id_ in data["details"] if id_.startswith("ce-"))
    with Bank(folder / "bank.h5") as bank:
        predictions = predict_bank(load_head(folder / "ce.safetensors"), bank)
    y, z = predictions.labels, predictions.classes
    assert y is not None
    for k, got in enumerate(data["details"][id_]["iou"]):
        union = ((y == k) | (z == k)).sum()
        if union:
            assert got == pytest.approx(100 * ((y == k) & (z == k)).sum() / union, abs=0.06)
        else:
            assert got is None


def test_rows_that_are_images_have_no_iou(store: Store) -> None:
    """It is neither carried nor listed as missing."""
    data = gather(Results(store))
    assert all("iou" not in detail for detail in data["details"].values())
    assert "IoU" not in " ".join(data["missing"])


def test_the_command(folder: Path, featbank: Run, tmp_path: Path) -> None:
    """Pictures reach the page, by the names that its program asks for."""
    arguments = [folder / "results.sqlite", "--head", folder / "ce.safetensors"]
    featbank("report", *arguments, "-o", "r.html")
    page = Elements((tmp_path / "r.html").read_text())
    data = json.loads(page.scripts["data"])
    assert len(data["maps"]["maps"]) == len(SIZES)
    assert data["heads"] == [row["id"] for row in data["rows"] if row["name"] == "ce"]
    error = featbank("report", *arguments, "--features", "no.h5", "-o", "r.html", code=2).stderr
    assert "no.h5: no such file" in error


def test_heads_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    """Of another bank, too many, on several banks, and a bank without a head."""
    other = make_head(tmp_path / "other.safetensors", make_bank(tmp_path / "other.h5"))
    with Store(folder / "results.sqlite") as store:
        results, head = Results(store), folder / "ce.safetensors"
        with pytest.raises(errors.ConfigError, match="Give a head that was exported from them"):
            heads.gather_heads(results, [other])
        with pytest.raises(errors.ConfigError, match="5 heads are given, a page takes 4"):
            heads.gather_heads(results, [head] * 5)
        with pytest.raises(errors.ConfigError, match="Give the bank they are of with --features"):
            heads.gather_heads(results, [head], tmp_path / "other.h5")
        with pytest.raises(errors.ConfigError, match="--head is for a page of one bank"):
            gather_banks([results, results], heads=[head])
        with pytest.raises(errors.ConfigError, match=r"Add --head head\.safetensors"):
            gather_banks([results], features=tmp_path / "other.h5")


def test_the_page_shows_the_pictures(folder: Path, tmp_path: Path, browser: Any) -> None:
    """Reference: the page's data; the menu of heads changes prediction and difference."""
    export_head(folder / "results.sqlite", "crt", folder / "crt.safetensors")
    paths = [folder / f"{name}.safetensors" for name in ("ce", "crt")]
    with Store(folder / "results.sqlite") as store:
        report(Results(store), tmp_path / "r.html", heads=paths)
    load(browser, tmp_path / "r.html")
    shown, maps = browser.execute_script("""
      $("maps-head").value = "1";
      $("maps-head").dispatchEvent(new Event("change"));
      return [[...document.querySelectorAll("#pictures img")].map((img) =>
        img.src.split(",")[1]), DATA.maps.maps];
    """)
    expected = [
        png for each in maps for png in (each["truth"], each["predicted"][1], each["difference"][1])
    ]
    assert shown == expected
    widths = "return [...document.querySelectorAll('#pictures img')].map((img) => img.naturalWidth)"
    wait(browser, lambda: all(browser.execute_script(widths)))
    assert browser.execute_script(widths) == [wide for _, wide, *_ in SIZES for _ in range(3)]
    figure = "return document.querySelector('[data-plot=ious] .main-svg') !== null"
    assert browser.execute_script(figure)
