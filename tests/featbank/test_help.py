"""The help of every command: a list that is not cut, and examples that can be copied."""

from __future__ import annotations

import re
import shlex

import pytest
from click.testing import CliRunner

from featbank.cli import main

GROUP = main._group()
COMMANDS = list(GROUP.commands)


def help_of(*words: str) -> str:
    """What ``--help`` prints at 80 columns."""
    result = CliRunner().invoke(main, [*words, "--help"], terminal_width=80)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_of_commands_is_not_cut() -> None:
    """Reference: every line ends a sentence, within 80 columns."""
    lines = help_of().partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == COMMANDS
    assert not [line for line in lines if len(line) > 80 or not re.search(r"[^.]\.$|, …$", line)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_examples_of_options_that_it_has(name: str) -> None:
    """Reference: its own parameters; an example stands in a line as it can be copied."""
    command = GROUP.commands[name]
    text = command.help.partition("\b")[2].replace("\\\n", " ")
    starts = (f"featbank {name}", "torchrun")
    examples = [line for line in map(str.strip, text.splitlines()) if line.startswith(starts)]
    assert examples
    shown = " ".join(help_of(name).split())
    known = {opt for p in command.params for opt in p.opts}
    if name == "submit":  # which takes the options of a sweep
        known |= {opt for p in GROUP.commands["sweep"].params for opt in p.opts}
    for example in examples:
        words = shlex.split(example)
        assert " ".join(words[:2]) in shown
        used = [w for w in words[words.index(name) + 1 :] if re.match(r"--?[a-z]", w)]
        assert {word.partition("=")[0] for word in used} <= known, example
