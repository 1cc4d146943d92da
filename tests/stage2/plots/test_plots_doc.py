"""The commands of docs/plots.md are understood."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from featbank.cli import main
from stage2.plots import BANK_KINDS, KINDS
from tests.conftest import ROOT

TEXT = (ROOT / "docs/plots.md").read_text()
COMMANDS = re.findall(r"^featbank (.+)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str) -> None:
    """Reference: click reads them, and the kind takes their options."""
    name, *arguments = shlex.split(command)
    subcommand = main.commands[name]
    assert isinstance(subcommand, click.Command)
    options = subcommand.make_context(name, arguments).params
    if name == "plot":
        names = {"split": "split", "select_on": "select_on", "metric": "metric", "by": "by"}
        row = {**KINDS, **BANK_KINDS}[options["kind"]]
        if options["kind"] in BANK_KINDS:
            names = {"recipes": "recipe", "overrides": "set", "view": "view", "head": "head"}
        assert {names[option] for option in names if options[option]} <= set(row.options)
