"""The file that a bank is written to: locked against other writers, published in one step."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from featbank import errors
from featbank.files import publish
from featbank.memory import size_text


class Target:
    """A file in the making: `part` beside `path`, locked by this process.

    The lock ends with the process, however that ends; the next run overwrites a part file that a
    killed run left.

    Raises
    ------
    OutputExists
        If the target exists and `overwrite` is not set.
    OutputBusy
        If another process is writing it.
    ConfigError
        If the target is a folder or a device, or its folder is missing.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool) -> None:
        self.path, self.overwrite = Path(path), overwrite
        folder = self.path.parent
        if not folder.is_dir():
            raise errors.ConfigError(f"{folder} is not a folder. Create it first.")
        if self.path.exists() and not self.path.is_file():
            raise errors.ConfigError(f"{self.path} is not a file. Give the name of a file.")
        self._refuse_existing()
        self.part = folder / f".{self.path.name}.part"
        self._lock = FileLock(folder / f".{self.path.name}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise errors.OutputBusy(
                f"Another run is writing {self.path}. Wait for it, or choose another name."
            ) from None
        try:
            self._refuse_existing()  # another run may have published it meanwhile
        except errors.OutputExists:
            self._unlock()
            raise

    def reserve(self, size: int) -> None:
        """Raise `NoSpace` if the disk of the folder has less than `size` bytes left."""
        free = shutil.disk_usage(self.path.parent).free
        if size > free:
            raise errors.NoSpace(
                f"{self.path} needs {size_text(size)} more, its disk has {size_text(free)} free. "
                "Free space, choose another folder, or store float16."
            )

    def publish(self) -> None:
        """Flush the finished part file to disk and move it into place."""
        self._refuse_existing()
        publish(self.part, self.path)
        self._unlock()

    def discard(self) -> None:
        """Remove the part file, unless it is another run's; the target is unchanged."""
        if self._lock.is_locked:
            self.part.unlink(missing_ok=True)
            self._unlock()

    def _refuse_existing(self) -> None:
        if self.path.exists() and not self.overwrite:
            raise errors.OutputExists(f"{self.path} exists. Choose another name or --overwrite.")

    def _unlock(self) -> None:
        Path(self._lock.lock_file).unlink(missing_ok=True)  # first, while it is still ours
        self._lock.release()
