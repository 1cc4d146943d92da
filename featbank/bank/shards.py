"""Shards: finished parts of an unfinished bank, from which a killed extraction resumes.

They are stored in a folder beside the target, ``.<name of the target>.shards``. ``key.json`` holds
everything that determines their content. ``<part>.shard`` is a SHA-256 over the key and the
payload, then the payload, the arrays as safetensors; it gets its name once it is on disk. So a
shard that is truncated, changed in any byte or made under another key is recognised and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from featbank import errors
from featbank.files import replacing, sync

_DIGEST_BYTES = 32


class Shards:
    """The shards of one target under one key; those of another key are removed.

    One process opens them, the one that holds the target's `BankWriter`; others may join it.

    Parameters
    ----------
    target
        The bank they become.
    key
        Everything that determines their content: JSON values by field, None for a field that does
        not apply.
    report
        Called with a line if existing shards cannot be used.
    join
        Use the shards that another process opened, and remove nothing.

    Raises
    ------
    Mismatch
        If a process that joins has another key.
    OSError
        If the folder cannot be written.
    """

    def __init__(
        self,
        target: Path,
        key: Mapping[str, Any],
        *,
        report: Callable[[str], None] = lambda line: None,
        join: bool = False,
    ) -> None:
        self.folder = target.with_name(f".{target.name}.shards")
        self._report = report
        key = json.loads(json.dumps(key))  # as it is read back from disk
        document = json.dumps(key, sort_keys=True).encode()
        self._key_digest = hashlib.sha256(document).digest()
        if join:
            if not self.folder.exists():
                raise errors.Mismatch(
                    f"{self.folder} is not there, though another process has made it. Give a bank "
                    "in a folder that all machines share."
                )
            if difference := self._difference(key):
                raise errors.Mismatch(
                    f"The processes do not compute the same: {difference}. Give all the same "
                    "device, number of threads and versions."
                )
            return
        if self.folder.exists() and (difference := self._difference(key)):
            if self.names:
                report(f"Shards of an earlier run are not used: {difference}. Starting anew.")
            self.remove()
        self.folder.mkdir(exist_ok=True)
        for part in self.folder.glob("*.part"):
            part.unlink()
        self._publish("key.json", document)
        sync(self.folder.parent)

    @property
    def names(self) -> set[str]:
        """Names of the existing shards, not yet checked."""
        return {path.stem for path in self.folder.glob("*.shard")}

    @property
    def size(self) -> int:
        """Bytes of the existing shards."""
        return sum(path.stat().st_size for path in self.folder.glob("*.shard"))

    def read(self, name: str) -> dict[str, np.ndarray] | None:
        """Read the arrays of a finished shard; None if it has to be made."""
        path = self._path(name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError:
            content = b""
        digest, payload = content[:_DIGEST_BYTES], memoryview(content)[_DIGEST_BYTES:]
        if digest != self._digest(payload):
            self._report(f"{path} is damaged. It is made again.")
            return None
        return load(bytes(payload))

    def write(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a shard, which appears whole or not at all."""
        payload = save({field: np.ascontiguousarray(array) for field, array in arrays.items()})
        self._publish(self._path(name).name, self._digest(payload), payload)

    def remove(self) -> None:
        """Remove all shards and their folder."""
        shutil.rmtree(self.folder)

    def _path(self, name: str) -> Path:
        assert re.fullmatch(r"\w[\w.\-]*", name, re.ASCII), name
        return self.folder / f"{name}.shard"

    def _digest(self, payload: bytes | memoryview) -> bytes:
        digest = hashlib.sha256(self._key_digest)
        digest.update(payload)
        return digest.digest()

    def _publish(self, name: str, *blocks: bytes) -> None:
        try:
            with replacing(self.folder / name) as part, part.open("wb") as file:
                file.writelines(blocks)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise OSError(
                f"{self.folder / name} could not be written ({reason}). Fix the cause and "
                "run again: finished shards are kept."
            ) from None

    def _difference(self, key: Mapping[str, Any]) -> str:
        """Difference between the key on disk and `key`, in words; empty if they are equal."""
        try:
            earlier = dict(json.loads((self.folder / "key.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return "their key cannot be read"
        changes = [
            f"the {field} changed ({_short(earlier.get(field))} → {_short(key.get(field))})"
            for field in {**key, **earlier}
            if earlier.get(field) != key.get(field)
        ]
        more = [f"{len(changes) - 3} more fields changed"] if len(changes) > 3 else []
        return ", ".join(changes[:3] + more)


def _short(value: Any) -> str:
    """A value for a message: of a digest, the first digits."""
    text = "none" if value is None else str(value)
    return f"{text[:8]}…" if len(text) > 48 else text
