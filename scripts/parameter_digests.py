"""Digests of the parameters that every preset trains on a bank, on one thread.

    python scripts/parameter_digests.py bank.h5 > new.txt

Two commits that print the same lines train the same parameters, bit for bit: run the script in a
work tree of each and compare the outputs. A preset that the bank does not support is skipped with
the reason.
"""

from __future__ import annotations

import hashlib
import sys

import torch

from featbank import errors
from stage2 import Recipe, sweep
from stage2.methods.presets import PRESETS

EPOCHS = 3


def digest(recipe: Recipe, bank: str) -> str:
    """SHA-256 of all parameters at the last epoch, by name."""
    (outcome,) = sweep(bank, [recipe], device="cpu", workers=1).outcomes
    sha256 = hashlib.sha256()
    for name, values in sorted(outcome.parameters.items()):
        sha256.update(name.encode() + values.detach().contiguous().numpy().tobytes())
    return sha256.hexdigest()[:16]


def main(bank: str) -> None:
    """Print a line for each preset."""
    torch.set_num_threads(1)
    for name in PRESETS:
        try:
            settings = {"epochs": EPOCHS} if "epochs" in Recipe(name).settings else {}
            print(name, digest(Recipe(name, **settings), bank), flush=True)
        except errors.FeatbankError as error:
            print(name, "left out:", str(error).partition(". ")[0][:60], flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
