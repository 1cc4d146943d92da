"""Random imports of odd and hostile arrays: a bank with every row's own class, or one error line.

Two rows are of one class if and only if their labels were one before they were saved. A refusal
leaves nothing behind, and NumPy warns of nothing.
"""

from __future__ import annotations

import csv
import io as io_
import tarfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from pyarrow import feather, parquet
from safetensors.torch import save_file
from scipy import io

from featbank import Bank
from featbank.bank.verify import verify
from featbank.cli import main

Rng = np.random.Generator

POOLS: dict[str, Sequence[Any]] = {
    "plain": range(4),
    "from one": range(1, 5),
    "sparse": (31, 5_551, 90_210, 999_983),
    "hashes": (3, 2**61 + 7, 2**62 - 1, -(2**60)),
    "negative": (-1, 0, 1, 2),
    "neighbours": (2_050, 2_051, 2_052, 311, 312),
    "beyond int64": (0, 2**63 + 5, 2**64 - 1),
    "beyond doubles": (2**53, 2**53 + 1, 5),
    "flags": (False, True),
    "fractions": (0.0, 1.25, 2.0),
    "gaps": (0.0, float("nan"), 1.0),
    "endless": (0.0, float("inf"), 1.0),
    "names": ("wren", "heron", "coot"),
    "case": ("Wren", "wren", "coot"),
    "padded": ("04", "4", "040"),
    "distinct digits": ("003", "005", "011"),
    "underscores": ("2_31", "23_1", "5"),
    "exponents": ("3e2", "300", "30e1"),
    "signs": ("+6", "6", "-6"),
    "points": ("8.", "8.00", "9"),
    "scripts": ("٣", "３", "3", "³"),
    "thousands": ("2,000", "2000", "3,000"),
    "missing": ("nan", "inf", "None", "2"),
    "blank": ("wren", "", "coot"),
    "spaces": ("wren", " wren", "coot"),
    "wide spaces": ("coot\u2003", "coot", "wren"),
    "one number": ("wren", "coot", "heron", "6"),
    "brackets": ("[1, 2]", "[3, 4]", "(5)"),
    "lines": ("a\nb", "a", "b"),
    "composed": ("caf\u00e9", "cafe\u0301", "cafe"),
    "nul": ("a\0", "a", "b"),
    "numbers beside texts": (1, "1", "2"),
    "one class": ("wren",),
}

SOUND = (
    "plain", "flags", "names", "case", "distinct digits", "scripts", "composed", "neighbours",
)  # fmt: skip
"""Pools that can be a bank as they are."""


@dataclass
class Case:
    """An import, as it will be saved: what is meant, and how it is written."""

    arguments: list[str] = field(default_factory=list)
    texts: dict[str, list[Any]] = field(default_factory=dict)
    """What each row of a split is, before saving."""
    features: dict[str, np.ndarray] = field(default_factory=dict)
    merges: bool = False
    """Whether texts of one number may be one class: the user said that they are numbers."""


def label_array(rng: Rng, values: list[Any]) -> Any:
    """The labels in one of the types people keep them in."""
    if len({isinstance(value, str) for value in values}) > 1 or "a\0" in values:
        return values  # only a list holds them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is lost in saving is the test's own doing
        return (text_array if isinstance(values[0], str) else number_array)(rng, values)


def text_array(rng: Rng, values: list[str]) -> np.ndarray:
    """Texts, bytes, a column, or rows of characters."""
    match drawn_from(rng, {"text": 16, "bytes": 1, "latin": 1, "column": 1, "characters": 1}):
        case "bytes":
            return np.array([value.encode() for value in values])
        case "latin":
            return np.array([value.encode() + b"\xe9" for value in values])  # no UTF-8
        case "characters":
            return np.array([list(value.ljust(8)) for value in values])
        case "column":
            return np.array(values)[:, None]
    return np.array(values)


def number_array(rng: Rng, values: list[Any]) -> Any:
    """Numbers of any type, or what has several per row, or none."""
    array = np.array(values)
    kind = drawn_from(
        rng,
        {"same": 60, "column": 20, "float64": 6, "float32": 6, "float16": 8, "bfloat16": 8,
         "uint8": 6, "onehot": 4, "multihot": 3, "complex64": 2, "M8[s]": 3, "scores": 2,
         "scalar": 2},
    )  # fmt: skip
    onehot = np.array([[value == each for each in sorted(set(values))] for value in values]) * 1.0
    match kind:
        case "bfloat16":
            return torch.tensor([float(value) for value in values]).bfloat16()
        case "uint8" if not all(0 <= value < 256 and value == int(value) for value in values):
            return array
        case "float64" | "float32" | "float16" | "complex64" | "uint8":
            return array.astype(kind)
        case "M8[s]":
            return array.astype(np.int64).astype(kind)
        case "onehot" | "multihot" | "scores":
            several = np.maximum(onehot, onehot[::-1])
            return {"onehot": onehot, "multihot": several, "scores": onehot + 0.5}[kind]
    return {"column": array[:, None], "scalar": array[0]}.get(kind, array)


def feature_array(rng: Rng, x: np.ndarray) -> tuple[np.ndarray, list[str], bool]:
    """Features in a shape people keep them in, options, and whether they can be a bank."""
    bad = x.copy()
    bad[len(x) // 2] = np.nan
    kinds: dict[str, tuple[int, np.ndarray, list[str], bool]] = {
        "same": (90, x, [], True),
        "axis": (8, x[:, None], [], True),
        "map": (6, x[:, :, None, None], [], True),
        "copy": (5, x[None], [], True),
        "copies": (6, np.stack([x, x + 1]), ["--copies", "2"], True),
        "copies unsaid": (3, np.stack([x, x + 1]), [], False),
        "tokens": (5, np.stack([x, x, x], axis=1), [], False),
        "grid": (3, np.ones((*x.shape, 2, 2)), [], False),
        "turned": (4, np.asfortranarray(x.T), [], False),
        "half": (4, x.astype(np.float16), [], True),
        "nan": (3, bad, [], False),
        "short": (3, x[:-1], [], False),
        "complex": (2, x * 1j, [], False),
        "text": (2, x.astype(str), [], False),
        "copies wrong": (2, np.stack([x, x, x]), ["--copies", "2"], False),
    }
    return kinds[drawn_from(rng, {kind: made[0] for kind, made in kinds.items()})][1:]


def drawn_from(rng: Rng, weights: dict[str, int]) -> str:
    """One of the keys, as often as its weight."""
    return str(
        rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values()))
    )


def saved_npy(x: np.ndarray, y: Any, stem: str) -> tuple[str, str]:
    """Two files."""
    np.save(f"{stem}_x.npy", x)
    np.save(f"{stem}_y.npy", known_array(y), allow_pickle=False)
    return f"{stem}_x.npy", f"{stem}_y.npy"


def saved_npz(x: np.ndarray, y: Any, stem: str) -> tuple[str, str]:
    """One archive."""
    np.savez(f"{stem}.npz", x=x, y=known_array(y))
    return f"{stem}.npz:x", f"{stem}.npz:y"


def saved_mat(x: np.ndarray, y: Any, stem: str) -> tuple[str, str]:
    """MATLAB: texts as a cell array."""
    y = known_array(y)
    if y.dtype.kind == "S":
        raise TypeError("SciPy would write other texts")
    io.savemat(f"{stem}.mat", {"x": x, "y": y.astype(object) if y.dtype.kind == "U" else y})
    return f"{stem}.mat:x", f"{stem}.mat:y"


def saved_pt(x: np.ndarray, y: Any, stem: str) -> tuple[str, str]:
    """PyTorch: texts as a list."""
    numbers = isinstance(y, torch.Tensor) or (isinstance(y, np.ndarray) and y.dtype.kind in "biufc")
    y = torch.as_tensor(y) if numbers else listed(y)
    torch.save({"x": torch.tensor(x), "y": y}, f"{stem}.pt")
    return f"{stem}.pt:x", f"{stem}.pt:y"


def saved_safetensors(x: np.ndarray, y: Any, stem: str) -> tuple[str, str]:
    """Tensors alone."""
    save_file({"x": torch.tensor(x), "y": torch.as_tensor(y)}, f"{stem}.safetensors")
    return f"{stem}.safetensors:x", f"{stem}.safetensors:y"


def saved_h5(x: np.ndarray, y: Any, stem: str) -> tuple[str, str]:
    """HDF5: texts of any length, in a group."""
    texts = isinstance(y, list) and all(isinstance(value, str) for value in y)
    with h5py.File(f"{stem}.h5", "w") as file:
        file["g/x"] = x
        file["g/y"] = y if texts else known_array(y)
    return f"{stem}.h5:g/x", f"{stem}.h5:g/y"


def saved_zarr(x: np.ndarray, y: Any, stem: str) -> tuple[str, str]:
    """Zarr, format 2."""
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(f"{stem}.zarr", mode="w", zarr_format=2)
    group.create_array("x", data=x)
    group.create_array("y", data=known_array(y))
    return f"{stem}.zarr:x", f"{stem}.zarr:y"


def saved_tar(x: np.ndarray, y: Any, stem: str) -> tuple[str, str]:
    """WebDataset: a file per array and per label."""
    if isinstance(y, np.ndarray) and y.dtype.kind in "ScM":
        raise TypeError("a text would hold what Python prints of them")
    labels = listed(y)
    if len({isinstance(value, str) for value in labels}) > 1 or len(labels) != len(x):
        raise TypeError("a text has no type, and every row one label")
    if not all(isinstance(value, str | int | float) for value in labels):
        raise TypeError("a text would hold what Python prints of a list")
    with tarfile.open(f"{stem}.tar", "w") as tar:
        for row, label in enumerate(labels):
            np.save(array := io_.BytesIO(), x[row])
            for name, content in (("npy", array.getvalue()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{row:04}.{name}")
                member.size = len(content)
                tar.addfile(member, io_.BytesIO(content))
    return f"{stem}.tar:npy", f"{stem}.tar:cls"


def saved_feather(x: np.ndarray, y: Any, stem: str) -> tuple[str, str]:
    """An Arrow file with a list per vector."""
    feather.write_feather(pa.table({"f": list(x), "y": pa.array(listed(y))}), f"{stem}.feather")
    return f"{stem}.feather:f", f"{stem}.feather:y"


def saved_csv(x: np.ndarray, y: Any, stem: str) -> tuple[str, str]:
    """A table with a text per vector."""
    if len({isinstance(value, str) for value in listed(y)}) > 1:
        raise TypeError("a table would merge some of them")
    if isinstance(y, np.ndarray) and y.dtype.kind in "ScM":
        raise TypeError("a table would hold what Python prints of them")
    with Path(f"{stem}.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["f", "y"])
        writer.writerows(zip(map(str, x.tolist()), listed(y), strict=True))
    return f"{stem}.csv:f", f"{stem}.csv:y"


def saved_parquet(x: np.ndarray, y: Any, stem: str) -> tuple[str, str]:
    """A table with a list per vector."""
    parquet.write_table(pa.table({"f": list(x), "y": pa.array(listed(y))}), f"{stem}.parquet")
    return f"{stem}.parquet:f", f"{stem}.parquet:y"


SAVERS: tuple[Callable[[np.ndarray, Any, str], tuple[str, str]], ...] = (
    saved_npy, saved_npz, saved_mat, saved_pt, saved_safetensors, saved_csv, saved_parquet,
    saved_h5, saved_zarr, saved_tar, saved_feather,
)  # fmt: skip


def known_array(y: Any) -> np.ndarray:
    """Labels that NumPy can hold as they are."""
    if not isinstance(y, np.ndarray | np.generic):
        raise TypeError("NumPy would merge some of them")
    return np.asarray(y)


def listed(y: Any) -> list[Any]:
    """Labels as a list."""
    return y if isinstance(y, list) else y.tolist()


def drawn(rng: Rng) -> Case:
    """Draw an import and save its files in the working folder."""
    case = Case()
    pool = list(POOLS[str(rng.choice(SOUND if rng.random() < 0.4 else list(POOLS)))])
    dim = int(rng.integers(2, 5))  # of size 1, [N, T, 1] would be [N, D, 1]
    for split in ("train", "test")[: rng.integers(1, 3)]:
        n = int(rng.integers(5, 12))
        places = rng.permutation([*range(len(pool)), *rng.integers(len(pool), size=n)])
        values = [pool[place] for place in places]
        x = rng.integers(-8, 8, size=(len(values), dim)).astype(np.float32)
        saved = None
        while saved is None:  # until a file type takes the arrays
            array, options, sound = feature_array(rng, x) if split == "train" else (x, [], True)
            saved = saved_somehow(rng, array, values, split)
        case.texts[split] = values
        case.arguments += [f"--{split}", *saved, *options]
        if sound:
            case.features[split] = x
    add_options(case, rng, pool, dim)
    return case


def saved_somehow(rng: Rng, x: np.ndarray, values: list[Any], stem: str) -> Any:
    """Places of features and labels in a file of some type, or None where it does not take them."""
    y = label_array(rng, values)
    saver = SAVERS[rng.integers(len(SAVERS))]
    kept = (saved_npy, saved_npz, saved_pt, saved_safetensors, saved_h5, saved_zarr)
    if saver not in kept and changed(y, values):
        return None  # these do not keep how coarse the type was
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return saver(x, y, stem)
        except Exception:
            return None


def changed(y: Any, values: list[Any]) -> bool:
    """Whether a float type made other numbers of the labels."""
    if not (isinstance(y, torch.Tensor) or (isinstance(y, np.ndarray) and y.dtype.kind == "f")):
        return False
    pairs = zip(y.reshape(-1).tolist(), values, strict=False)
    return any(kept != value for kept, value in pairs if not np.isnan(kept))


def add_options(case: Case, rng: Rng, pool: list[Any], dim: int) -> None:
    """Draw options, right ones and wrong ones."""
    if rng.random() < 0.4:
        return
    texts = [str(value) for value in pool]
    if rng.random() < 0.2:
        kind = str(rng.choice(["names", "numbers"]))
        case.arguments += ["--labels", kind]
        case.merges = kind == "numbers"
    if rng.random() < 0.2:
        case.arguments.append("--renumber")
    if rng.random() < 0.1:
        case.arguments += ["--label-base", "1"]
    if rng.random() < 0.1:
        case.arguments += ["--dtype", "float16"]
    if rng.random() < 0.25:
        ends = str(rng.choice(["\n", "\r\n", "\r"]))
        lines = texts[::-1] if rng.random() < 0.7 else [*texts, *texts[:1], "more"]
        Path("names.txt").write_bytes(ends.join(lines).encode("utf-8-sig"))
        case.arguments += ["--class-names", "names.txt"]
    if rng.random() < 0.2:
        weight = rng.normal(size=(len(pool), dim) if rng.random() < 0.8 else (dim, len(pool)))
        np.save("w.npy", weight)
        np.save("b.npy", np.full(len(weight), rng.choice([0.0, np.nan], p=[0.8, 0.2])))
        case.arguments += ["--classifier", "w.npy", "b.npy"]


def check_bank(case: Case, path: Path) -> None:
    """The bank passes its own checks and keeps apart and together what was so."""
    assert [check for check in verify(path) if check.status in ("failed", "skipped")] == []
    classes: dict[str, dict[Any, int]] = {}
    as_names = "names" in case.arguments
    with Bank(path) as bank:
        assert bank.num_classes <= 100_000
        for split, values in case.texts.items():
            if split not in case.features:
                raise AssertionError(f"{split} cannot be a bank")
            np.testing.assert_array_equal(bank.load(split)[0], case.features[split])
            for value, k in zip(values, bank.labels(split).tolist(), strict=True):
                meant = Decimal(value) if case.merges and isinstance(value, str) else value
                # taken as a name, a number is what its file writes: 1, 1.0 or True
                scope = classes.setdefault(
                    split if as_names and not isinstance(value, str) else "", {}
                )
                assert scope.setdefault(meant, k) == k, (value, k)
                if "--class-names" in case.arguments and bank.class_names[k] != f"{value}".strip():
                    assert "--labels" in case.arguments or not isinstance(value, str) or (
                        str(value) not in bank.class_names
                    ), (value, bank.class_names[k])  # fmt: skip
    for scope in classes.values():
        assert len(set(scope.values())) == len(scope), classes


@pytest.mark.parametrize("seeds", [range(50), pytest.param(range(50, 250), marks=pytest.mark.long)])
def test_random_imports(seeds: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of either kind, and nothing else."""
    made = 0
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        monkeypatch.chdir(folder)
        case = drawn(np.random.default_rng(seed))
        before = sorted(folder.iterdir())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = CliRunner().invoke(main, ["import", *case.arguments, "-o", "bank.h5"])
        about = f"seed {seed}: {case.arguments}\n{result.output}"
        if result.exit_code == 0:
            made += 1
            try:
                check_bank(case, folder / "bank.h5")
            except AssertionError as error:
                raise AssertionError(f"{about}\n{case.texts}\n{error}") from error
            continue
        assert isinstance(result.exception, SystemExit), (about, result.exc_info)
        assert result.exit_code == 2, about
        assert result.stderr.startswith("featbank: "), about
        assert result.stderr.count("\n") == 1, about
        assert sorted(folder.iterdir()) == before, about
    assert len(seeds) // 10 < made < len(seeds)
