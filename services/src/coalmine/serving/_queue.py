"""The requests that wait for a model: the oldest first, with those that can be run with it."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterator

from coalmine.serving._batch import Ticket

__all__ = ["TicketQueue"]


class TicketQueue:
    """Tickets by their key, the oldest head of a key first. `rows` and `bytes` are what waits.

    A ticket that is dropped stays in its place, and is passed over when it is come to.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0
        self._number = 0
        self._alike: dict[Hashable, deque[Ticket]] = {}
        #: Number and key of the head of each key; of some keys also of what was their head before.
        self._heads: list[tuple[int, int, Hashable]] = []

    def add(self, ticket: Ticket) -> None:
        """Let a ticket wait, behind all that wait already."""
        ticket.queued = True
        self.rows += ticket.rows
        self.bytes += ticket.size
        self._number = ticket.number = self._number + 1
        alike = self._alike.get(ticket.key)
        if alike is None:
            self._alike[ticket.key] = deque((ticket,))
            heapq.heappush(self._heads, (ticket.number, id(ticket), ticket.key))
        else:
            alike.append(ticket)

    def drop(self, ticket: Ticket) -> None:
        """Count a ticket no longer: its caller has left."""
        ticket.queued = False
        self.rows -= ticket.rows
        self.bytes -= ticket.size

    def oldest(self) -> Ticket | None:
        """The ticket that waits longest."""
        heads = self._heads
        while heads:
            number, _, key = heads[0]
            alike = self._alike[key]
            while alike and not alike[0].queued:
                alike.popleft()
            if alike and alike[0].number == number:
                return alike[0]
            heapq.heappop(heads)
            if alike:
                heapq.heappush(heads, (alike[0].number, id(alike[0]), key))
            else:
                del self._alike[key]
        return None

    def take(self, *, max_rows: int, max_bytes: int) -> list[Ticket]:
        """The oldest ticket and the next oldest that are like it, as many as may run together."""
        first = self.oldest()
        if first is None:
            return []
        alike = self._alike[first.key]
        taken: list[Ticket] = []
        rows = size = 0
        while alike:
            ticket = alike[0]
            if ticket.queued:
                rows += ticket.rows
                size += ticket.size
                if taken and (rows > max_rows or size > max_bytes):
                    rows -= ticket.rows
                    size -= ticket.size
                    break
                ticket.queued = False
                taken.append(ticket)
            alike.popleft()
        self.rows -= rows
        self.bytes -= size
        return taken

    def unwatched(self) -> Iterator[Ticket]:
        """Those that wait and that nobody watches the time of yet."""
        for alike in self._alike.values():
            for ticket in reversed(alike):
                if ticket.watched:
                    break  # and so are all before it
                yield ticket
