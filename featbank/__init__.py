"""featbank: bank frozen features once, compare every long-tail classifier on them.

``featbank`` is the ground floor: the bank file and the command line. ``stage1`` turns images into
a bank; ``stage2`` turns a bank into results. The names below load on first use, so that importing
``featbank`` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featbank.lazy import on_demand

if TYPE_CHECKING:
    from featbank.bank import Bank, BankWriter, write_bank

__version__ = "0.1.0"
__all__ = ["Bank", "BankWriter", "__version__", "write_bank"]

__getattr__, __dir__ = on_demand(
    __name__, dict.fromkeys(("Bank", "BankWriter", "write_bank"), "featbank.bank")
)
