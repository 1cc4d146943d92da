"""`featbank train` and `featbank extract`, called as click commands."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from featbank import errors
from featbank.bank import Bank
from featbank.cli.extract import extract
from featbank.cli.train import train
from stage1.data.datasets import DATASETS
from stage1.data.images import DatasetSettings
from stage1.training.checkpoint import load_checkpoint
from stage1.training.settings import TrainSettings


def test_train_then_extract(tmp_path: Path) -> None:
    """The road by its commands: each ends with the file it wrote and the command to try next."""
    run, bank = tmp_path / "run", tmp_path / "bank.h5"
    command = ["--dataset", "digits-lt", "--imbalance", "20", "--epochs", "1", "--mixup", "0.5"]
    result = CliRunner().invoke(train, [*command, "--nesterov", "-o", str(run)])
    assert result.exit_code == 0, result.output
    assert "epoch 1/1" in result.output
    last = result.output.splitlines()[-1]
    assert last == f"Wrote {run}/checkpoint.pt. Next: featbank extract {run} -o bank.h5"
    settings = load_checkpoint(run)[1].settings
    assert (settings.dataset.imbalance, settings.mixup, settings.nesterov) == (20, 0.5, True)

    options = ["--views", "balanced, instance", "--dtype", "float16", "--balanced-batches", "2"]
    result = CliRunner().invoke(extract, [str(run), "-o", str(bank), *options])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].startswith(f"Wrote {bank}. Next: featbank sweep {bank}")
    with Bank(bank) as opened:
        assert opened.views == ("instance", "balanced")
        assert opened.dtype == "float16"


def test_mistakes_reach_the_front_door_as_errors(tmp_path: Path) -> None:
    """The group turns these into one line and exit code 2."""
    command = ["--dataset", "digits-lt", "--lr", "-1", "-o", str(tmp_path / "run")]
    with pytest.raises(errors.ConfigError, match="The 'lr' of stage 1 must be a float > 0, got -1"):
        CliRunner().invoke(train, command, catch_exceptions=False)
    with pytest.raises(errors.ConfigError, match="no such checkpoint"):
        CliRunner().invoke(
            extract, [str(tmp_path), "-o", str(tmp_path / "b.h5")], catch_exceptions=False
        )
    assert list(tmp_path.iterdir()) == []


def _options(command: click.Command) -> dict[str, click.Option]:
    return {p.name or "": p for p in command.params if isinstance(p, click.Option)}


def test_every_setting_is_an_option_that_tells_its_default() -> None:
    """Against the fields of the settings and the defaults of every data set."""
    options = _options(train)
    for field in dataclasses.fields(TrainSettings):
        # Several options; --set; what training finds out itself.
        if field.name in ("dataset", "loss_settings", "weights_sha256"):
            continue
        told = options[field.name].help or ""
        default = {"False": "no", "None": "none"}.get(str(field.default), field.default)
        assert f"[default: {default}" in told
        for name, source in DATASETS.items():
            if field.name in source.training:
                assert f"{name} {source.training[field.name]}" in told
    for field in dataclasses.fields(DatasetSettings)[1:]:
        told = options[field.name].help or ""
        assert "[" in told
        for source in DATASETS.values():
            if field.name in source.defaults:
                default = source.defaults[field.name]
                assert f"{default:g}" if isinstance(default, float) else str(default) in told
    assert all(name in (options["dataset"].help or "") for name in DATASETS)


@pytest.mark.parametrize("command", [train, extract])
def test_every_option_has_help_and_a_default_or_is_required(command: click.Command) -> None:
    """Against the printed help of each option."""
    for option in _options(command).values():
        told = option.help or ""
        assert told
        assert option.required or option.show_default or "[default: " in told or "required]" in told
