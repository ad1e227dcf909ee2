"""What a caller has not read yet: of what is superseded, the newest only.

Where the caller is slower than the server, this keeps what waits bounded by what the audio can
bring forth.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Generic, TypeVar

from stream_client.errors import ClientError

_Item = TypeVar("_Item")


class Inbox(Generic[_Item]):
    """A queue of one reader, in which newer items take the place of older ones."""

    def __init__(self) -> None:
        self._items: OrderedDict[object, _Item] = OrderedDict()
        self._count = 0
        self._changed = asyncio.Event()
        self._failure: ClientError | None = None
        self.is_closed = False

    def put(self, item: _Item, key: tuple[object, ...] = (), *, is_last: bool = False) -> None:
        """Add an item at the end.

        Args:
            item: To be read.
            key: An unread item with the same one is left out; without one nothing is.
            is_last: Whether it is the last with its key: nothing takes its place.
        """
        self._count += 1
        self._items.pop(key, None)
        self._items[key if key and not is_last else self._count] = item
        self._changed.set()

    def close(self, failure: ClientError | None = None) -> None:
        """Take note that no more comes, and why if that is a failure."""
        self._failure = failure
        self.is_closed = True
        self._changed.set()

    def raise_failure(self) -> None:
        """Raise what it was closed with, if anything."""
        if self._failure is not None:
            raise self._failure

    async def get(self) -> _Item | None:
        """Return the next item when there is one; none after the last.

        Raises:
            ClientError: It was closed with a failure, and all before that has been read.
        """
        while not self._items:
            self.raise_failure()
            if self.is_closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._items.popitem(last=False)[1]


__all__ = ["Inbox"]
