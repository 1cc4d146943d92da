"""The bank: one HDF5 file of frozen features, and what is known of it."""

from featbank.bank.arrays import write_bank
from featbank.bank.classes import (
    GROUPS,
    HoldOut,
    class_counts,
    class_groups,
    require_samples,
    same_groups,
)
from featbank.bank.composed import Bank
from featbank.bank.writer import BankWriter

__all__ = [
    "GROUPS",
    "Bank",
    "BankWriter",
    "HoldOut",
    "class_counts",
    "class_groups",
    "require_samples",
    "same_groups",
    "write_bank",
]
