"""The bank: one HDF5 file of frozen features, and what is known of it."""

from featbank.bank.arrays import write_bank
from featbank.bank.classes import HoldOut, class_counts, require_samples
from featbank.bank.composed import Bank
from featbank.bank.grouping import GROUPS, ClassGroups, class_groups
from featbank.bank.writer import BankWriter

__all__ = [
    "GROUPS",
    "Bank",
    "BankWriter",
    "ClassGroups",
    "HoldOut",
    "class_counts",
    "class_groups",
    "require_samples",
    "write_bank",
]
