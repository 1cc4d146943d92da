"""``featbank cite``."""

from __future__ import annotations

import click


@click.command()
@click.argument("wanted", nargs=-1, required=True, metavar="RESULTS|NAME…")
def cite(*, wanted: tuple[str, ...]) -> None:
    """Print BibTeX of the methods that results files or named methods use, and of featbank.

    A results file stands for every recipe in it. A line above each entry says what it is cited
    for; BibTeX skips it. Cross-entropy, plain batches and SGD are not cited.

    \b
    featbank cite results.sqlite > references.bib
    featbank cite mislas lws balanced_softmax
    """
    from stage2.results.cite import cite as entries

    click.echo(entries(wanted))
