"""The axes of features as users save them: [N, D], axes of length 1, copies, or tokens."""

from __future__ import annotations

from typing import Any

from featbank import errors
from featbank.wording import number


def settled(x: Any, name: str, rows: int, copies: int | None, *, tokens: bool = False) -> Any:
    """Bring features of `rows` labels to [N, D], to [A, N, D] with `copies` = A > 1, or, if an axis
    may be `tokens`, to [A, N, T, D]; unread.

    Axes of length 1 are dropped: [N, 1, D], [N, D, 1, 1] and [1, N, D] are [N, D]; where an axis
    may be tokens, [N, 1, D] has one token.

    Raises
    ------
    DataError
        For any other axes, with their probable meaning.
    """
    if x.ndim <= 2:
        return x
    shape = list(x.shape)
    if x.ndim == 3 and shape[:2] == [copies, rows]:
        return x if copies != 1 else x[0]
    if tokens and (settled_tokens := _as_tokens(x, rows, copies)) is not None:
        return settled_tokens
    if shape[0] == rows:
        single = [axis for axis in range(1, x.ndim) if shape[axis] == 1]
        single = single[: x.ndim - 2]  # features [N, 1] keep their last axis
        if x.ndim - len(single) == 2:
            return x.squeeze(tuple(single))
    elif x.ndim == 3 and shape[:2] == [1, rows]:
        return x[0]
    raise errors.DataError(
        f"{name}: features have shape {shape}, and there {'is' if rows == 1 else 'are'} "
        f"{number(rows, 'label')}. {_meaning(x, rows)}"
    )


def _as_tokens(x: Any, rows: int, copies: int | None) -> Any:
    """Features [N, T, D, 1, …] or [A, N, T, D, 1, …] as [A, N, T, D]; None for other axes."""
    shape, last = list(x.shape), 3
    if x.ndim > 3 and shape[:2] == [copies or 1, rows]:
        last = 4
    elif copies not in (None, 1) or shape[0] != rows:
        return None
    if any(n != 1 for n in shape[last:]):
        return None
    x = x.squeeze(tuple(range(last, x.ndim)))
    return x if last == 4 else x[None]


def _meaning(x: Any, rows: int) -> str:
    """The probable meaning of the axes, and the remedy."""
    shape = list(x.shape)
    if x.ndim == 3 and shape[1] == rows:
        either = ", or pool them if the first axis is rows and the second tokens or time"
        return (
            f"They look like {shape[0]} augmentation copies of [N, D]: give --copies {shape[0]}"
            f"{either if shape[0] == rows else ''}."
        )
    if x.ndim == 3 and shape[0] == rows:
        return (
            f"They look like {shape[1]} tokens or points in time per row, [N, T, D], or "
            f"{shape[2]} of them, [N, D, T]: give --tokens for [N, T, D], pool that axis, as by "
            "x.mean(axis=1) or x.mean(axis=2), or take one, as by x[:, 0] or x[:, :, 0]. Copies "
            "come first, [A, N, D], with --copies A."
        )
    if shape[0] == rows:
        axes = ", ".join(map(str, range(2, x.ndim)))
        return (
            f"They look like a map of positions per row: pool it, as by x.mean(axis=({axes})), or "
            f"give x.reshape({shape[0]}, {shape[1]}, -1).swapaxes(1, 2) with --tokens."
        )
    return "They must be [N, D], or [A, N, D] with --copies A."
