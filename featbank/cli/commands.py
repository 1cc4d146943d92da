"""All commands and their group: they parse, call the library and print.

Heavy imports are inside the commands, so that ``featbank --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click

from featbank import __version__
from featbank.characters import visible
from featbank.cli import stop
from featbank.cli.terminal import guarded_streams, say
from featbank.errors import FeatbankError, first_line

COMMANDS = {
    "quick.quick": "",
    "train.train": "",
    "extract.extract": "Write the features of a run or pretrained model to a bank.",
    "regions.extract_regions": "Extract proposals and features of torchvision's detectors.",
    "segmentation.extract_maps": "Extract maps of features of segmentation networks.",
    "importing.import_": "Make a bank from arrays made elsewhere: timm, CLIP, DINO.",
    "regions.import_regions": "Make a bank from boxes that a detector proposes.",
    "exporting.export_features": "Write a bank to plain files, .npy, .h5, .parquet, …",
    "bank.info": "",
    "bank.verify": "Read every byte of a bank and list what is wrong.",
    "bank.merge": "Merge banks: shards one after another, or views of rows.",
    "bank.split": "Hold a val out of test or train, or cut a bank in shards.",
    "amend.amend": "Copy a bank with other text, counts or groups of classes.",
    "text.text": "Embed class names by the text side of an open_clip model.",
    "sweep.sweep": "Train every recipe on a bank in fused groups, rank them.",
    "status.status": "",
    "status.watch": "",
    "submit.submit": "Submit a sweep to SLURM as one array job.",
    "merge_results.merge_results": "Join results files: shards of a sweep, or sweeps.",
    "leaderboard.leaderboard": "",
    "best.best": "Choose one configuration under conditions; export it.",
    "report.report": "Write what a results file holds as one HTML page.",
    "compare.compare": "Test whether configurations differ on the same rows.",
    "plot.plot": "Draw what a results file or a bank holds, for a paper.",
    "embed.embed": "Draw features of chosen classes in the plane, by t-SNE.",
    "ensemble.ensemble": "Choose an ensemble of the configurations of a sweep.",
    "export.export": "Write the head of a configuration to a file.",
    "predict.predict": "Classify features with an exported head.",
    "evaluate.evaluate": "Measure an exported head on rows with known labels.",
    "methods.methods": "List recipes, their parts and presets, or show one.",
    "cite.cite": "Print BibTeX of the methods of results files or heads.",
    "datasets.datasets": "List the data sets of featbank train.",
    "demo.demo": "Run every stage on handwritten digits, half a minute.",
    "benchmark.benchmark": "Measure the engine beside its opponents.",
}
"""Every command as module and name, in the order of the road, with its line in the list of them; an
empty one is the first sentence of its help."""

_LONGEST = 2_000
"""Characters of an error's line."""

_LONG_WORD = re.compile(r"\S{300,}")
"""A value or name too long to read: the line shows its start and end."""


class _Group(click.Group):
    """A group that turns the library's errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of the road, not of the alphabet

    def main(self, *args: Any, **options: Any) -> Any:
        if any("\0" in each for each in options.get("args") or (args and args[0]) or ()):
            _report("An argument has a NUL byte, which no name can have. Leave it out.")
            sys.exit(2)
        completing = "_FEATBANK_COMPLETE" in os.environ  # a shell reads, and click writes bytes
        with contextlib.nullcontext() if completing else guarded_streams():
            return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _one_line():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        warnings.formatwarning = lambda message, *_: f"featbank: {visible(str(message))}\n"
        with _one_line():
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn an error into one line and an exit code: 2 for wrong input, 1 for work that failed."""
    try:
        yield
    except FeatbankError as error:
        first, *more = error.lines
        _report(first)
        for line in more:
            say(f"  {_shortened(line)}", err=True)
        sys.exit(2)
    except click.exceptions.NoArgsIsHelpError:
        raise  # click prints the help
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "featbank"
        fact = error.format_message().removesuffix(".")
        _report(f"{fact}{'' if fact.endswith('?') else '.'} See {path} --help.")
        sys.exit(2)
    except KeyboardInterrupt:
        stop()
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            _report(f"{_message(error)}. Name another file.")
            sys.exit(2)
        _report(f"the work failed: {_message(error)}")
        sys.exit(1)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        _report(f"the work failed: {first_line(error)}")
        sys.exit(1)


def _report(text: str) -> None:
    say(f"featbank: {_shortened(text)}", err=True)


def _shortened(text: str) -> str:
    """A text cut to a readable length, and so its long words."""
    text = _LONG_WORD.sub(lambda word: f"{word[0][:120]}…{word[0][-80:]}", text)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


def _message(error: BaseException) -> str:
    """An error's message on one line, or its type where it has none."""
    if isinstance(error, MemoryError) and not str(error).strip():
        return "out of memory. Free some, or give a smaller --memory where the command has it."
    return " ".join(str(error).split()) or type(error).__name__


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch ran out of memory; it is not imported to ask."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="featbank")
def main() -> None:
    """Bank frozen features once, compare every long-tail classifier on them.

    The road: train → extract (or import) → sweep → leaderboard, report. With features of your own
    begin with: featbank quick x.npy y.npy --test xt.npy yt.npy
    """


for _place, _short in COMMANDS.items():
    _module, _name = _place.split(".")
    _command = getattr(import_module(f"featbank.cli.{_module}"), _name)
    _command.short_help = _short or None
    main.add_command(_command)
