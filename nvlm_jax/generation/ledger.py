"""Which place of a store is in use, and which still holds something that can be used again."""

from __future__ import annotations

import collections
from collections.abc import Iterable


class Ledger:
    """Places 1 to count - 1 of a store, each free, held by requests, or kept for its content.

    Place 0 belongs to nobody: padding reads from it and writes to it. Content has a key (a digest of everything it
    depends on). What nobody holds any more stays until room is needed, what was let go first going first.
    """

    def __init__(self, count: int):
        self.count = 1
        self._free: list[int] = []
        self._holders: collections.Counter[int] = collections.Counter()
        self._places: dict[bytes, int] = {}  # of content, held or not
        self._keys: dict[int, bytes] = {}
        self._idle: collections.OrderedDict[int, None] = collections.OrderedDict()
        self.grow(count)

    @property
    def available(self) -> int:
        """How many places `take` could give."""
        return len(self._free) + len(self._idle)

    @property
    def held(self) -> int:
        """How many places requests hold."""
        return len(self._holders)

    def grow(self, count: int) -> None:
        """More places behind the ones there are."""
        self._free += range(count - 1, self.count - 1, -1)
        self.count = max(count, self.count)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def find(self, key: bytes) -> int | None:
        """The place of this content, which the caller now holds; None if it is not there."""
        place = self._places.get(key)
        if place is not None:
            self._holders[place] += 1
            self._idle.pop(place, None)
        return place

    def take(self, count: int) -> list[int] | None:
        """So many places for new content, held by the caller; None if there are not enough."""
        if count > self.available:
            return None
        return [self._take() for _ in range(count)]

    def name(self, place: int, key: bytes) -> None:
        """Say what a held place holds. Where another holds the same, that one keeps the name."""
        if key not in self._places:
            self._places[key] = place
            self._keys[place] = key

    def release(self, places: Iterable[int]) -> None:
        """Let go of places. The last of a request's pages are given away first, for the first are more often shared."""
        for place in reversed(list(places)):
            self._holders[place] -= 1
            if not self._holders[place]:
                del self._holders[place]
                if place in self._keys:
                    self._idle[place] = None
                else:
                    self._free.append(place)

    def _take(self) -> int:
        if self._free:
            place = self._free.pop()
        else:
            place, _ = self._idle.popitem(last=False)
            del self._places[self._keys.pop(place)]
        self._holders[place] += 1
        return place
