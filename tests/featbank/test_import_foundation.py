"""Tokens, text and scales of `featbank import`: stored as given, or refused in one line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank import Bank, errors
from featbank.bank.verify import verify
from featbank.exchange import scales
from featbank.exchange.embeddings import LOGIT_SCALE, read_text
from stage2.methods.recipe_settings import PUBLISHED_NORM
from tests.conftest import Run

Y = np.array([0, 1, 1, 0, 2])
X = np.arange(15, dtype=np.float32).reshape(5, 3) + 1
TOKENS = np.arange(5 * 4 * 3, dtype=np.float32).reshape(5, 4, 3)
TEXT = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 3]], np.float32)
TRAIN = ("--train", "x.npy", "y.npy")
NAMED = ("--train", "x.npy", "names.npy")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """x.npy, its labels as numbers and as names, and tokens."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    np.save("names.npy", np.array(["ant", "bee", "cat"])[Y])
    np.save("tokens.npy", TOKENS)
    np.save("text.npy", TEXT)
    return tmp_path


@pytest.mark.parametrize(
    ("x", "options", "shape"),
    [
        (TOKENS, (), (1, 5, 4, 3)),
        (TOKENS[..., None], (), (1, 5, 4, 3)),
        (TOKENS[..., None, None], (), (1, 5, 4, 3)),
        (TOKENS[None], (), (1, 5, 4, 3)),
        (TOKENS[:, :1], (), (1, 5, 1, 3)),
        (np.stack([TOKENS, -TOKENS]), ("--copies", 2), (2, 5, 4, 3)),
        (np.stack([TOKENS, -TOKENS])[..., None], ("--copies", 2), (2, 5, 4, 3)),
    ],
)
def test_tokens_that_are_understood(
    featbank: Run, x: np.ndarray, options: tuple[object, ...], shape: tuple[int, ...]
) -> None:
    """[N, T, D] and [A, N, T, D], with axes of length 1 behind; every number stays in its place."""
    np.save("t.npy", x)
    shown = featbank("import", "--train", "t.npy", "y.npy", "--tokens", *options, "-o", "b.h5")
    assert f"5 × {shape[2]} token" in shown.stdout
    with Bank("b.h5") as bank:
        assert bank.shape("train") == shape
        assert (bank.tokens(), bank.dim, bank.schema) == (shape[2], 3, 5)
        np.testing.assert_array_equal(bank.load_copies("train"), x.reshape(shape))
    assert f"{shape[2]} token" in featbank("info", "b.h5").stdout
    assert not [check for check in verify("b.h5") if check.status == "failed"]


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (TOKENS, (), "give --tokens for [N, T, D], pool that axis"),
        (X, ("--tokens",), "--tokens is given, but no features have axes [N, T, D]"),
        (TOKENS, ("--tokens", "--copies", 2), "They look like 4 tokens"),
        (np.ones((5, 3, 7, 7)), (), "x.reshape(5, 3, -1).swapaxes(1, 2) with --tokens"),
        (np.ones((5, 3, 7, 7)), ("--tokens",), "They look like a map of positions"),
        (np.ones((5, 4, 0)), ("--tokens",), "D = 0"),
        (np.ones((5, 0, 3)), ("--tokens",), "T and D are ≥ 1"),
    ],
)
def test_tokens_that_are_not(
    featbank: Run, x: np.ndarray, options: tuple[object, ...], message: str
) -> None:
    """Never copies or tokens in silence."""
    np.save("t.npy", x)
    command = ("import", "--train", "t.npy", "y.npy", *options, "-o", "b.h5")
    assert message in featbank(*command, code=2).stderr
    assert not Path("b.h5").exists()


def test_views_of_several_sizes_and_a_val_held_out(featbank: Run) -> None:
    """Rows selected for val are the tokens of these rows."""
    wide = np.c_[X, X]
    np.save("wide.npy", wide)
    featbank(
        "import", *TRAIN, "--view", "tokens", "train", "tokens.npy", "--view", "wide", "train",
        "wide.npy", "--tokens", "--val-per-class", 1, "-o", "b.h5",
    )  # fmt: skip
    with Bank("b.h5") as bank:
        assert [bank.dim_of(view) for view in bank.views] == [3, 3, 6]
        for split in ("train", "val"):
            rows = bank.index(split)
            np.testing.assert_array_equal(bank.load(split, "tokens")[0], TOKENS[rows])
            np.testing.assert_array_equal(bank.load(split, "wide")[0], wide[rows])


def test_sizes_of_a_view_that_differ(featbank: Run) -> None:
    """Train and test have one T."""
    np.save("t.npy", TOKENS[:, :2] + 1)
    done = featbank(
        "import", "--train", "tokens.npy", "y.npy", "--test", "t.npy", "y.npy", "--tokens",
        "--dry-run", code=2,
    )  # fmt: skip
    assert "features have 2 tokens, D = 3, train has 4 tokens, D = 3" in done.stderr


def test_text_is_matched_by_name(featbank: Run) -> None:
    """Rows in another order, with classes that the bank does not have; prompts stay apart."""
    prompts = np.stack([TEXT, 2 * TEXT + 1])
    order = [2, 0, 1]
    more = np.concatenate([prompts[:, order], np.ones((2, 4, 3))], axis=1)
    np.savez("t.npz", text=more, class_names=["cat", "ant", "bee", "d", "e", "f", "g"])
    shown = featbank("import", *NAMED, "--text", "t.npz", "-o", "b.h5").stdout
    assert "matched to the classes by name; text of 4 other classes is left out" in shown
    assert "2 prompts of 3 × 3; logit scale 100, that of CLIP" in shown
    with Bank("b.h5") as bank:
        text = bank.text()
        assert text is not None
        np.testing.assert_array_equal(text.features, prompts)
        assert text.logit_scale == LOGIT_SCALE
    assert "text of 2 prompts, logit scale 100" in featbank("info", "b.h5").stdout


def test_zero_shot_is_tried_on_train(featbank: Run) -> None:
    """The accuracy of the mean of unit prompts, by NumPy; near chance, the order is in doubt."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(9), 20)
    centers = rng.normal(size=(9, 12))
    np.save("x.npy", centers[y] + rng.normal(size=(180, 12)))
    np.save("y.npy", y)
    prompts = centers + rng.normal(size=(3, 9, 12))
    np.savez("t.npz", text=prompts, logit_scale=20.0)
    mean = (prompts / np.linalg.norm(prompts, axis=2, keepdims=True)).mean(0)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    right = 100 * float(np.mean((np.load("x.npy") @ mean.T).argmax(1) == y))
    shown = featbank("import", *TRAIN, "--text", "t.npz", "--dry-run").stdout
    assert f"logit scale 20; zero-shot right on {right:.1f} % of 180 train rows" in shown
    assert "near chance" not in shown
    np.savez("t.npz", text=np.roll(prompts, 1, axis=1))
    shown = featbank("import", *TRAIN, "--text", "t.npz", "--dry-run").stdout
    assert "zero-shot on instance is near chance: is text in label order" in shown


def test_names_in_a_file_and_text_of_a_view(featbank: Run) -> None:
    """--text-names, --view-text and --logit-scale; a view of another D has none of instance's."""
    Path("names.txt").write_text("cat\nant\nbee\n")
    np.save("wide.npy", np.c_[X, X])
    np.save("wide_text.npy", np.c_[TEXT, TEXT])
    options = ("--text", "text.npy", "--text-names", "names.txt", "--logit-scale", 14.5)
    view = ("--view", "wide", "train", "wide.npy")
    featbank("import", *NAMED, *view, *options, "-o", "b.h5")
    with Bank("b.h5") as bank:
        text = bank.text()
        assert text is not None
        np.testing.assert_array_equal(text.features[0], TEXT[[1, 2, 0]])
        assert text.logit_scale == 14.5
        assert bank.text("wide") is None
        assert bank.texts == ("instance",)
        assert bank.schema == 5
    featbank(
        "import", *NAMED, *view, *options, "--view-text", "wide", "wide_text.npy", "-o", "c.h5"
    )
    with Bank("c.h5") as bank:
        assert bank.text("wide").features.shape == (1, 3, 6)  # type: ignore[union-attr]


def test_a_file_with_everything(featbank: Run) -> None:
    """Keys text and class_names beside x_train and y_train; K is that of the text."""
    np.savez(
        "all.npz", x_train=X, y_train=Y, text_features=np.ones((4, 3)), class_names=list("abcd"),
        logit_scale=3.0,
    )  # fmt: skip
    shown = featbank("import", "all.npz", "-o", "b.h5").stdout
    assert "logit scale 3, which may be a logarithm: its exponential is 20.1" in shown
    with Bank("b.h5") as bank:
        assert bank.class_names == list("abcd")
        assert bank.text().logit_scale == 3.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TEXT[:, :2], (), "has D = 2, the features of instance have D = 3"),
        (TEXT[:2], (), "label 2 in row 4 is outside 0…1, the classes of the text"),
        (np.ones((3, 7, 3)), (), "the classes of the text"),
        (TEXT[0], (), "Text must be numbers [K, D]"),
        (np.array(["a", "b"]), (), "Text must be numbers [K, D]"),
        (np.ones((0, 3)), (), "Text must be numbers [K, D]"),
        (TEXT * 0, (), "the embedding of class 0 in prompt 0 is 0"),
        (np.full((3, 3), np.nan), (), "text/instance: NaN or infinity in row 0"),
        (np.full((3, 3), 1e300), (), "text/instance: NaN or infinity"),
        (TEXT, ("--logit-scale", 0), "the logit scale is 0. It must be > 0"),
        (TEXT, ("--logit-scale", -1), "the logit scale is -1. It must be > 0"),
    ],
)
def test_text_that_does_not_fit(
    featbank: Run, text: np.ndarray, options: tuple[object, ...], message: str
) -> None:
    """Text of another model, of other classes, or of nothing: one line, and no bank."""
    np.save("t.npy", np.asarray(text, np.float64) if text.dtype.kind == "f" else text)
    if text.ndim == 3:
        np.save("y.npy", np.array([0, 1, 8, 9, 2]))
    done = featbank("import", *TRAIN, "--text", "t.npy", *options, "-o", "b.h5", code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("b.h5").exists()


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["ant", "bee", "bat"], NAMED, "no text of 1 class: cat. Did you mean 'bat'?"),
        (["x", "y", "z"], NAMED, "No class of text.npy ('x', 'y', 'z') is one of the bank"),
        (["ant", "ant", "bee"], NAMED, "'ant' names two classes"),
        (["ant", "bee"], NAMED, "names.txt has 2 names, text.npy has text of 3 classes"),
    ],
)
def test_names_that_do_not_match(
    featbank: Run, names: list[str], options: tuple[str, ...], message: str
) -> None:
    """The first that is missing, with the closest there is."""
    Path("names.txt").write_text("\n".join(names))
    command = ("import", *options, "--text", "text.npy", "--text-names", "names.txt", "--dry-run")
    assert message in featbank(*command, code=2).stderr


@pytest.mark.parametrize(
    ("shape", "named", "message"),
    [
        ((4, 3), False, "text of 4 classes, the bank has K = 3. Give --text-names FILE"),
        ((3, 7, 3), False, "It looks like [K, P, D]: save it as x.swapaxes(0, 1)"),
        ((4, 3), True, "text of 4 classes, the bank has K = 3. Give --class-names FILE"),
    ],
)
def test_text_of_other_classes(
    featbank: Run, shape: tuple[int, ...], named: bool, message: str
) -> None:
    """Without names on one side, K must be equal."""
    beside = {"names": [f"c{k}" for k in range(shape[-2])]} if named else {}
    np.savez("t.npz", text=np.ones(shape), **beside)
    features = TRAIN if named else NAMED
    done = featbank("import", *features, "--text", "t.npz", "--dry-run", code=2)
    assert message in done.stderr


@pytest.mark.parametrize(
    "option", [("--logit-scale", "5"), ("--text-names", "names.npy"), ("--scale", "units")]
)
def test_options_that_do_not_apply(featbank: Run, option: tuple[str, str]) -> None:
    """Without text there is no logit scale; a scale is one of the words or a number."""
    assert option[0] in featbank("import", *TRAIN, *option, "--dry-run", code=2).stderr


@pytest.mark.parametrize("scale", ["unit", "standardise", "none", "0.25", "1e-3"])
def test_a_scale_is_recorded_and_features_stay(featbank: Run, scale: str) -> None:
    """The bank differs by its record alone; an export imported again replaces it."""
    featbank("import", *TRAIN, "-o", "plain.h5")
    shown = featbank("import", *TRAIN, "--scale", scale, "-o", "b.h5").stdout
    assert f"{scale}: the default of feature_scale" in shown
    with Bank("plain.h5") as plain, Bank("b.h5") as bank:
        assert (plain.default_scale(), bank.default_scale()) == (None, scale)
        assert bank.digests == plain.digests | {
            "scale/instance/default": bank.digest("scale/instance/default"),
            "provenance": bank.digest("provenance"),
        }
    assert f"scaled by default: {scale}" in featbank("info", "b.h5").stdout
    featbank("export-features", "b.h5", "-o", "e")
    featbank("import", "e", "--scale", "none", "-o", "again.h5")
    with Bank("again.h5") as again:
        assert again.default_scale() == "none"


def test_an_export_is_read_back_as_it_was(featbank: Run) -> None:
    """Tokens of one copy and of several, text, logit scales and default scales."""
    np.save("two.npy", np.stack([TOKENS, TOKENS + 1]))
    for x, copies in (("tokens.npy", 1), ("two.npy", 2)):
        featbank(
            "import", "--train", x, "names.npy", "--tokens", "--copies", copies, "--text",
            "text.npy", "--logit-scale", 0.1, "--scale", "0.1", "-o", "b.h5", "--overwrite",
        )  # fmt: skip
        featbank("export-features", "b.h5", "-o", "e", "--overwrite")
        assert np.load("e/train/instance/feature.npy").shape == np.load(x).shape
        featbank("import", "e", "-o", "again.h5", "--overwrite")
        with Bank("b.h5") as one, Bank("again.h5") as other:
            assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    "change", [{"tokens": {"x": 2}}, {"text": {"a b": 1}}, {"text": {"instance": "x"}},
               {"default_scale": {"instance": "?"}}, {"text": 3}, {"default_scale": [1]}],
)  # fmt: skip
def test_an_export_with_other_facts(featbank: Run, change: dict[str, object]) -> None:
    """bank.json as somebody edited it."""
    import json

    featbank("import", *NAMED, "--text", "text.npy", "-o", "b.h5")
    featbank("export-features", "b.h5", "-o", "e")
    about = json.loads(Path("e/bank.json").read_text())
    Path("e/bank.json").write_text(json.dumps(about | change))
    done = featbank("import", "e", "--dry-run", code=2)
    assert "is not what `featbank export-features` writes now" in done.stderr


def test_hints_on_the_scale(featbank: Run) -> None:
    """Unit rows; a stage-1 classifier on rows of another norm than presets'; W like text."""
    assert scales.PUBLISHED_NORM == PUBLISHED_NORM
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.save("x.npy", unit.astype(np.float16))
    shown = featbank("import", *TRAIN, "--dry-run").stdout
    assert "the rows of instance have one length, 1" in shown
    np.save("b.npy", np.zeros(3))
    with_classifier = (*TRAIN, "--classifier", "text.npy", "b.npy", "--dry-run")
    shown = featbank("import", *with_classifier).stdout
    assert "recipes leave features as they are" in shown
    assert "add --scale unit" in shown
    assert "W of instance have one length" not in shown  # 1, 2 and 3
    assert "add --scale" not in featbank("import", *with_classifier, "--scale", "unit").stdout
    np.save("text.npy", np.eye(3))
    assert "if they are text, give them as --text" in featbank("import", *with_classifier).stdout
    np.save("x.npy", 100 * X)
    factor = PUBLISHED_NORM / math.sqrt(np.square(100 * X).sum(1).mean())
    assert f"add --scale {factor:.3g}" in featbank("import", *with_classifier).stdout
    plain = featbank("import", *TRAIN, "--dry-run").stdout
    assert "one length" not in plain
    assert "--scale" not in plain


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from(["f2", "f4", "f8", "i4", "U3", "?", "c8"]),
    fill=st.sampled_from([0, 1, math.nan, math.inf, -1e300]),
    names=st.none() | st.lists(st.sampled_from("abcd"), max_size=4),
    factor=st.none() | st.floats(),
)
def test_any_text_is_an_error_or_fits(
    shape: list[int],
    dtype: str,
    fill: float,
    names: list[str] | None,
    factor: float | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever is in the file, [P, K, D] float32 of the classes or one line."""
    path = tmp_path_factory.getbasetemp() / "any.npz"
    with np.errstate(all="ignore"):
        array = np.full(shape, fill if dtype[0] in "fc" else 1).astype(dtype)
    beside = {} if names is None else {"class_names": np.array(names, "U1")}
    beside |= {} if factor is None else {"logit_scale": np.float64(factor)}
    np.savez(path, text=array, **beside)
    refusal = ""
    try:
        features, logit_scale = read_text(str(path)).of_classes(list("ab"), 2).checked("v", 3)
    except errors.FeatbankError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        return
    assert features.shape[1:] == (2, 3)
    assert np.isfinite(features).all()
    assert 0 < logit_scale < math.inf
