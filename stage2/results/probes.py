"""The probes that a results file keeps: trained once for a bank, whatever is swept on it later."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from featbank import errors
from stage2.features.descent import Fit
from stage2.methods.recipe import settings_hash
from stage2.results.claims import Claims
from stage2.results.store import Store, packed


@dataclass(frozen=True)
class KeptProbes:
    """The probes of a bank in a results file.

    Parameters
    ----------
    store
        The file.
    fingerprint
        The bank's.
    origin
        ``device`` and ``versions`` of probes that are added; None to add none.
    stale
        Rows of probes that are not found, `rows_of_probes` before work that trains them anew.
    claims
        The groups that processes share, so that none trains a probe that another one trains.
    """

    store: Store
    fingerprint: str
    origin: Mapping[str, Any] | None = None
    stale: Mapping[str, Any] = field(default_factory=dict)
    claims: Claims | None = None

    def alone(self, settings: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Wait until no other process trains the probe with these settings, nor does inside."""
        wanted = settings_hash("probe", settings)
        return self.claims.alone("probe", wanted) if self.claims else nullcontext()

    def find(self, settings: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """The probe with these settings: weight [K, D] and bias [K]; None where there is none, or
        with a warning where its row is damaged."""
        wanted = settings_hash("probe", settings)
        try:
            row = self.store.probes(self.fingerprint).get(wanted)
            if row is None or row == self.stale.get(wanted):
                return None
            arrays = self.store.probe(self.fingerprint, wanted)
        except errors.ConfigError as error:
            warnings.warn(f"{error} It is trained again.")
            return None
        return torch.from_numpy(arrays["weight"]), torch.from_numpy(arrays["bias"])

    def keep(
        self, settings: Mapping[str, Any], classifier: tuple[Tensor, Tensor], fit: Fit
    ) -> None:
        """Store a probe in place of an earlier one with its settings; none that diverged."""
        if self.origin is None or not math.isfinite(fit.gradient):
            return
        arrays = dict(zip(("weight", "bias"), classifier, strict=True))
        account = asdict(fit)
        del account["fell"]  # no column of the file's schema
        self.store.add_probe(
            {
                "bank": self.fingerprint,
                "probe": settings_hash("probe", settings),
                "settings": json.dumps(dict(settings)),
                "fit": json.dumps(account),
                "device": self.origin["device"],
                "versions": json.dumps(self.origin["versions"]),
                "finished": time.time(),
                "classifier": packed(
                    {name: values.cpu().numpy() for name, values in arrays.items()}
                ),
            }
        )


def rows_of_probes(store: Store, fingerprint: str) -> dict[str, dict[str, Any]]:
    """The probes of a bank that a file has now; none where one is damaged."""
    try:
        return store.probes(fingerprint)
    except errors.ConfigError:  # none is found, with a warning
        return {}
