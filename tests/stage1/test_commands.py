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
from stage1.data.settings import DatasetSettings
from stage1.training.checkpoint import load_checkpoint
from stage1.training.settings import TrainSettings

DATASET_FIELDS = dataclasses.fields(DatasetSettings)


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


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("root", "required: imagenet-lt, places-lt, inaturalist2018, lists, folder]"),
        ("imbalance", "[default: 50 (digits-lt), 100 (cifar), else as they are]"),
        (
            "val_per_class",
            "cifar, inaturalist2018, lists, folder: Training images of each class held out for "
            "val, which stage 1 never sees. [default: 0]",
        ),
        ("val_list", "Places_LT_val.txt (places-lt), else no val split]"),
        ("image_size", "[default: 224 (imagenet-lt, places-lt, inaturalist2018), else the images"),
        ("epochs", "[default: 100 (digits-lt), else 200]"),
        ("nesterov", "[default: no]"),
    ],
)
def test_help_is_made_of_the_rows(option: str, text: str) -> None:
    """Reference: defaults as a reader would write them, by data set."""
    assert text in (_options(train)[option].help or "")


def test_every_setting_is_an_option() -> None:
    """Reference: the fields of the settings, but what training finds out by itself."""
    fields = {f.name for f in (*dataclasses.fields(TrainSettings), *DATASET_FIELDS)}
    assert fields - {"name", "weights_sha256"} <= _options(train).keys()


@pytest.mark.parametrize("command", [train, extract])
def test_every_option_has_help_and_a_default_or_is_required(command: click.Command) -> None:
    """Against the printed help of each option."""
    for option in _options(command).values():
        text = option.help or ""
        assert text
        assert option.required or option.show_default or "[default: " in text
