"""Digests of the parameters that every preset trains on a bank, on one thread.

    python scripts/parameter_digests.py bank.h5 > new.txt

Two commits train the same, bit for bit, where they print the same lines: run it in a work tree of
each and compare the outputs. Presets that the bank does not allow are named as left out.
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
    found = hashlib.sha256()
    for name, values in sorted(outcome.parameters.items()):
        found.update(name.encode() + values.detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def main(bank: str) -> None:
    """Print a line for each preset."""
    torch.set_num_threads(1)
    for name in PRESETS:
        try:
            steps = {"epochs": EPOCHS} if "epochs" in Recipe(name).settings else {}
            print(name, digest(Recipe(name, **steps), bank), flush=True)
        except errors.FeatbankError as error:
            print(name, "left out:", str(error).partition(". ")[0][:60], flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
