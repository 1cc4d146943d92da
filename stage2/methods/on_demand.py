"""PyTorch, imported when something of it is first used.

The modules of methods also say which settings there are, and that is all that tables of results
need: importing PyTorch takes longer, and more memory, than reading 20,000 runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["torch"]

if TYPE_CHECKING:
    import torch
else:

    class _OnDemand:
        """Stands for ``torch``; what was used once is kept."""

        def __getattr__(self, name: str) -> Any:
            import torch  # the point of this module

            value = getattr(torch, name)
            setattr(self, name, value)
            return value

    torch = _OnDemand()
