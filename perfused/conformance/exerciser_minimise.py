"""Takes operations out of a failing list for as long as it still fails.

It knows nothing of files: whether a list fails is asked of a function. Bounded by how often that is asked.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def minimise(items: Sequence[Item], fails: Callable[[Sequence[Item]], bool], effort: int) -> list[Item]:
    """A shorter list, in the same order, for which `fails` is still true.

    Pieces are taken out, first halves, then quarters and so on down to single items, until none can go or `fails` has
    been asked `effort` times. `items` itself must fail.
    """
    left = list(items)
    piece = max(1, len(left) // 2)
    while effort > 0:
        shorter, effort = _pass(left, piece, fails, effort)
        if piece == 1 and len(shorter) == len(left):
            break
        left = shorter
        piece = max(1, min(piece // 2, len(left) // 2))
    return left


def _pass(
    items: list[Item], piece: int, fails: Callable[[Sequence[Item]], bool], effort: int
) -> tuple[list[Item], int]:
    """Try every piece of one size once, from the end: what came last before a fault has most to do with it."""
    left, end = items, len(items)
    while end > 0 and effort > 0:
        start = max(0, end - piece)
        tried = left[:start] + left[end:]
        effort -= 1
        if tried and fails(tried):
            left = tried
        end = start
    return left, effort
