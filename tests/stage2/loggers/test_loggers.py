"""Loggers: what they wrote is read back by each one's own reader."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from featbank import Bank, errors
from stage2.loggers import LOGGERS, Record, open_logger
from stage2.methods.recipe import Recipe
from stage2.results.leaderboard import Leaderboard
from stage2.results.store import Store
from stage2.sweep import SweepResults, sweep

RECIPES = [Recipe("crt", epochs=3, seed=seed) for seed in (0, 1)] + [Recipe("ncm")]


class Kept:
    """A logger that keeps what it hears, and whether it was stored by then."""

    def __init__(self, path: Path) -> None:
        self.path, self.heard, self.stored = path, list[Record](), list[bool]()
        self.boards: list[Leaderboard] = []

    def log(self, records: Sequence[Record]) -> None:
        self.heard += records
        with Store(self.path) as store:
            runs = {f"{r.id}-seed{r.seed}" for r in store.runs(records[0].facts["bank"])}
        self.stored += [record.name in runs for record in records]

    def end(self, bank: str, board: Leaderboard) -> None:
        self.boards.append(board)


class Broken:
    """A logger whose service is away."""

    calls = 0

    def log(self, records: Sequence[Record]) -> None:
        self.calls += 1
        raise OSError("no route to the server\nmore of it")

    end = log  # type: ignore[assignment]


def test_a_logger_hears_of_every_run_once_it_is_stored(bank: Bank, tmp_path: Path) -> None:
    """Reference: the outcomes and the board that the sweep returns; nothing on a second sweep but
    the board."""
    path = tmp_path / "r.sqlite"
    kept = Kept(path)
    swept = sweep(bank, RECIPES, results=path, loggers=[kept])
    assert all(kept.stored)
    assert len(kept.stored) == 3
    assert kept.boards == [swept.board]
    by_name = {record.name: record for record in kept.heard}
    for outcome in swept.outcomes:
        recipe = outcome.recipe
        record = by_name[f"{recipe.id}-seed{recipe.seed}"]
        assert (record.group, record.recipe, record.seed) == (recipe.id, recipe.name, recipe.seed)
        assert record.settings == recipe.parameters
        assert record.facts["bank"] == bank.fingerprint
        curves = {name: list(values.values()) for name, values in record.curves.items()}
        assert curves == outcome.curves
        assert all(list(values) == [1, 2, 3] for values in record.curves.values())
        for (split, epoch), evaluation in outcome.evaluations.items():
            assert record.metrics[f"{split}/{epoch}/macro"] == evaluation.metrics["macro"]
    sweep(bank, RECIPES, results=path, loggers=[kept])
    assert (len(kept.heard), len(kept.boards)) == (3, 2)


def test_a_logger_that_fails_loses_nothing(bank: Bank, tmp_path: Path) -> None:
    """Reference: all results stored, the other logger told, one warning of one line."""
    path = tmp_path / "r.sqlite"
    broken, kept = Broken(), Kept(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sweep(bank, RECIPES, results=path, loggers=[broken, kept])
    (message,) = [str(each.message) for each in caught]
    assert message == (
        "Broken failed and logs no more: no route to the server. Results are stored all the same."
    )
    assert broken.calls == 1
    assert len(kept.heard) == 3
    with Store(path) as store:
        assert len(store.runs(bank.fingerprint)) == 3


def test_tensorboard(bank: Bank, tmp_path: Path) -> None:
    """Reference: TensorBoard's own reader of event files, float32."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    swept = sweep(bank, RECIPES, loggers=[open_logger(f"tensorboard:{tmp_path / 'tb'}")])
    folder = tmp_path / "tb" / bank.fingerprint[:12]
    assert {p.name for p in folder.iterdir() if p.is_dir()} == set(_records(swept, bank))
    for name, record in _records(swept, bank).items():
        events = accumulator.EventAccumulator(str(folder / name)).Reload()
        for curve, values in record.curves.items():
            read = {event.step: event.value for event in events.Scalars(curve)}
            assert read == pytest.approx(values, rel=1e-6), curve
        for metric, value in record.metrics.items():
            (event,) = events.Scalars(metric)
            assert event.value == pytest.approx(value, rel=1e-6), metric
        stored = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        for text in (bank.fingerprint, record.group, "weight_decay"):
            assert (text.encode() in stored) or text not in record.settings, text
    texts = accumulator.EventAccumulator(str(folder)).Reload().Tensors("leaderboard/text_summary")
    assert swept.board.protocol in texts[0].tensor_proto.string_val[0].decode()


def test_mlflow(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: MLflow's client on a store of its own; a second sweep updates the leaderboard."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = open_logger("mlflow:long tail")
    swept = sweep(bank, RECIPES, loggers=[logger])
    logger.end(bank.fingerprint, swept.board)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("long tail").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    board = f"leaderboard-{bank.fingerprint[:12]}"
    assert len(client.search_runs([experiment])) == 4
    assert set(runs) == {*_records(swept, bank), board}
    for name, record in _records(swept, bank).items():
        run = runs[name]
        assert run.info.status == "FINISHED"
        assert run.data.tags.items() >= {"group": record.group, "bank": bank.fingerprint}.items()
        settings = {key: str(value) for key, value in record.settings.items()}
        assert run.data.params == settings | {"recipe": record.recipe, "seed": str(record.seed)}
        for metric, value in record.metrics.items():
            assert run.data.metrics[metric] == pytest.approx(value), metric
        for curve, values in record.curves.items():
            read = client.get_metric_history(run.info.run_id, curve)
            assert {each.step: each.value for each in read} == pytest.approx(values), curve


def test_wandb(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the protocol buffers in wandb's offline files, a LevelDB log after 7 bytes."""
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    swept = sweep(bank, RECIPES[:1], loggers=[open_logger("wandb:long-tail")])
    ((name, record),) = _records(swept, bank).items()
    by_name: dict[str, Any] = {}
    for file in (tmp_path / "wandb").glob("offline-run-*/*.wandb"):
        read = []
        for data in _leveldb_records(file.read_bytes()[7:]):
            entry = wandb_internal_pb2.Record()
            entry.ParseFromString(data)
            read.append(entry)
        (run,) = [entry.run for entry in read if entry.WhichOneof("record_type") == "run"]
        by_name[run.display_name] = run, read
    assert set(by_name) == {name, f"leaderboard-{bank.fingerprint[:12]}"}
    run, read = by_name[name]
    assert (run.project, run.run_group) == ("long-tail", record.group)
    config = {item.key: item.value_json for item in run.config.update}
    assert config["bank"] == f'"{bank.fingerprint}"'
    assert float(config["lr"]) == record.settings["lr"]
    histories = [entry.history for entry in read if entry.WhichOneof("record_type") == "history"]
    losses = [
        float(item.value_json)
        for history in histories
        for item in history.item
        if "loss" in (item.key, *item.nested_key)
    ]
    assert losses == pytest.approx(list(record.curves["loss"].values()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wandbb:p", "No logger is called 'wandbb'. Did you mean 'wandb'?"),
        ("mlflow", "'mlflow' does not say where to log. Write tensorboard:FOLDER"),
        ("tensorboard:", "does not say where to log"),
    ],
)
def test_bad_texts(text: str, message: str) -> None:
    """Reference: one ConfigError with a remedy."""
    with pytest.raises(errors.ConfigError) as caught:
        open_logger(text)
    assert message in str(caught.value), caught.value


@pytest.mark.parametrize(("name", "package"), [(n, n) for n in LOGGERS])
def test_a_missing_package_is_named(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the extra of pyproject.toml, in one line."""
    hidden = "torch.utils.tensorboard" if name == "tensorboard" else package
    monkeypatch.setitem(__import__("sys").modules, hidden, None)
    with pytest.raises(errors.ConfigError, match=rf"Run pip install 'featbank\[{name}\]'\.$"):
        open_logger(f"{name}:somewhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """Reference: one ConfigError, before anything is trained."""
    pytest.importorskip("tensorboard")
    (tmp_path / "tb").write_text("")
    with pytest.raises(errors.ConfigError, match="tb is not a folder"):
        open_logger(f"tensorboard:{tmp_path / 'tb'}")


def _records(swept: SweepResults, bank: Bank) -> dict[str, Record]:
    records = [Record.of(bank.fingerprint, outcome) for outcome in swept.outcomes]
    return {record.name: record for record in records}


def _leveldb_records(data: bytes) -> list[bytes]:
    """Records of a LevelDB log: blocks of 32 KiB (the first less what stands before it), each
    fragment with a CRC (4 bytes), its length (2) and type (1: full, 2: first, 3: middle, 4: last).
    """
    records, begun, at, left = [], b"", 0, (1 << 15) - 7
    while at + 7 <= len(data):
        if left < 7:
            at, left = at + left, 1 << 15
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        begun += data[at + 7 : at + 7 + length]
        at, left = at + 7 + length, left - 7 - length
        if kind in (1, 4):
            records.append(begun)
            begun = b""
    return records
