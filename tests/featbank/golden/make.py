"""The content of the golden banks, and how they were written: once, in schemas 1, 5 and 6.

    python -m tests.featbank.golden.make

The files beside this script are what users have on their disks. A change of the code that cannot
read them, or gives their content another fingerprint, is a change of the format: it needs a new
schema number and new files beside these.
"""

from __future__ import annotations

from pathlib import Path

from featbank import BankWriter

FOLDER = Path(__file__).parent
FILES = {"float32": FOLDER / "schema1.h5", "float16": FOLDER / "schema1_float16.h5"}
FOUNDATION = FOLDER / "schema5.h5"
PIXELS = FOLDER / "schema6.h5"

CLASS_NAMES = ["apple", "bär", "猫"]
PROVENANCE = {"made_by": "tests/featbank/golden/make.py", "epochs": 200, "note": "ü"}
LABELS = {"train": [0, 0, 0, 1, 2], "val": [2, 0], "test": [1, 2, 0]}
INDEX = {"train": [7, 0, 3, 9, 4], "val": [1, 8], "test": [0, 1, 2]}
SOURCES = {"train": "images", "val": "images", "test": "other images"}
PATHS = ["0/a.png", "0/b.png", "0/c d.png", "1/ä.png", "2/very/deep.png"]
FEATURES = {
    "train": {
        "instance": [
            [[0.5, -1.0], [1.5, 2.0], [0.0, 0.25], [3.0, -0.125], [-8.0, 100.0]],
            [[0.75, -1.0], [1.75, 2.0], [0.25, 0.25], [3.25, -0.125], [-7.75, 100.0]],
        ],
        "expert0/balanced": [[[5.0, 5.5], [6.0, 6.5], [7.0, 7.5], [8.0, 8.5], [9.0, 9.5]]],
    },
    "val": {
        "instance": [[[1.0, 2.0], [3.0, 4.0]]],
        "expert0/balanced": [[[0.0, 0.0], [-1.0, 1.0]]],
    },
    "test": {
        "instance": [[[65504.0, -65504.0], [2.0**-14, 2.0**-24], [0.0, -0.0]]],
        "expert0/balanced": [[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]],
    },
}
WEIGHT = [[1.0, 0.5], [-2.0, 0.25], [0.1, 3.0]]
BIAS = [0.0, -1.5, 2.5]
BATCHNORM = {"bn1": ([0.5, -0.5], [1.0, 4.0]), "layer1.0.bn2": ([0.0], [2.0])}

TOKENS = {"train": [[[0.5, 1.0, -2.0]] * 2] * 5, "test": [[[4.0, 0.25, 8.0]] * 2] * 3}
TEXT = {
    "instance": ([[[1.0, 0.0], [0.0, 2.0], [3.0, -4.0]]] * 2, 100.0),
    "tokens": ([[[1.0, 0.5, 0.25]] * 3], 14.25),
}
SCALES = {"instance": "unit", "tokens": "0.5"}

SOURCE_GROUPS = {"train": [4, 4, 0, 7, 0], "test": [9, 2**40, 9]}
CELLS = {"train": [[0, 0], [0, 1], [3, 2], [52, 43], [1, 0]], "test": [[0, 2], [1, 1], [2, 0]]}
OUTSIDE_COUNTS = [10**10, 900, 3]
BACKGROUND = 0
GROUPS = ("head", "body", "tail"), ("share > 1 %", "0.1 % ≤ share ≤ 1 %", "share < 0.1 %")
MEMBER = [-1, 0, 2]


def write(path: Path, dtype: str) -> None:
    """Write this content with the writer of today."""
    import numpy as np

    with BankWriter(
        path, CLASS_NAMES, dim=2, dtype=dtype, provenance=PROVENANCE, overwrite=True
    ) as writer:
        for split, views in FEATURES.items():
            writer.split(
                split,
                np.array(LABELS[split]),
                index=np.array(INDEX[split]),
                paths=PATHS if split == "train" else None,
                source=SOURCES[split],
            )
            for view, copies in views.items():
                features = writer.features(split, view, copies=len(copies))
                for copy in copies:
                    features.append(np.array(copy))
        writer.classifier("instance", np.array(WEIGHT), np.array(BIAS))
        for layer, (mean, variance) in BATCHNORM.items():
            writer.batchnorm("instance", {layer: (np.array(mean), np.array(variance))})


def write_foundation(path: Path) -> None:
    """Write what schema 5 added with the writer of today."""
    import numpy as np

    with BankWriter(path, CLASS_NAMES, dim=2, provenance=PROVENANCE, overwrite=True) as writer:
        for split, tokens in TOKENS.items():
            writer.split(split, np.array(LABELS[split]))
            writer.features(split, "instance").append(np.array(FEATURES[split]["instance"][0]))
            writer.features(split, "tokens", tokens=2, dim=3).append(np.array(tokens))
        for view, (features, logit_scale) in TEXT.items():
            writer.text(view, np.array(features), logit_scale)
        for view, scale in SCALES.items():
            writer.default_scale(view, scale)


def write_pixels(path: Path) -> None:
    """Write what schema 6 added with the writer of today."""
    import numpy as np

    from featbank.bank import ClassGroups

    with BankWriter(path, CLASS_NAMES, dim=2, provenance=PROVENANCE, overwrite=True) as writer:
        for split, groups in SOURCE_GROUPS.items():
            writer.split(
                split,
                np.array(LABELS[split]),
                source_group=np.array(groups),
                cell=np.array(CELLS[split]),
            )
            writer.features(split, "instance").append(np.array(FEATURES[split]["instance"][0]))
        writer.outside_counts(np.array(OUTSIDE_COUNTS))
        writer.background(BACKGROUND)
        writer.class_groups(ClassGroups(*GROUPS, np.array(MEMBER)))


if __name__ == "__main__":
    for dtype, file in FILES.items():
        write(file, dtype)
    write_foundation(FOUNDATION)
    write_pixels(PIXELS)
