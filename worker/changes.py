"""Lets many watchers on the event loop wait for the next change of something."""

from __future__ import annotations

import asyncio


class Changes:
    """A count of changes that can be awaited.

    Attributes:
        count: Number of changes so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Count a change and wake whoever waits for it."""
        self.count += 1
        self._event.set()
        self._event = asyncio.Event()

    async def after(self, seen: int) -> int:
        """Wait until the count exceeds `seen`; return it."""
        while self.count <= seen:
            await self._event.wait()
        return self.count
