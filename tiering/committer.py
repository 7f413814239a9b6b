"""The one writer of a pool's index in this process: group commit.

Where a commit waits for no device (an unsynced index) and no other writer is inside, short mutations are committed on the
loop: the thread's turn costs more than the commit, since both then pass Python's lock to and fro at every call of LMDB.

Promise: mutations are applied in the order they were handed in; each is judged and written in one transaction and its
future is done only after that transaction is committed under the pool's durability (data synced first, then index).
Owns its thread and queues. Does not know what a mutation does: it is a function of the transaction.
Kind: owner + one thread. Invariants: a mutation raises StoreError only before it writes; any other exception aborts
the whole transaction, and the mutations in it are run again one by one, so a faulty one fails alone.
Spec: docs/ARCHITECTURE.md, "Committer".
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from tiering.contract import StoreError
from tiering.flash import Flash
from tiering.index import Batch, Index

_T = TypeVar("_T")
Mutation = Callable[[Batch], _T]

BATCH_MAX: Final = 256
"""Mutations a transaction: bounds how long other processes wait for the write lock."""

HERE_MAX: Final = 32
"""Mutations a transaction on the loop: about a millisecond in which no request is served."""

_log = logging.getLogger("recall.committer")


class _Ticket:
    """A mutation and where its outcome goes: a loop's future, or an event somebody blocks on."""

    __slots__ = ("done", "error", "future", "loop", "mutation", "result")

    def __init__(self, mutation: Mutation[Any], loop: asyncio.AbstractEventLoop | None) -> None:
        self.mutation = mutation
        self.loop = loop
        self.future: asyncio.Future[Any] | None = loop.create_future() if loop is not None else None
        self.done = threading.Event() if loop is None else None
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if self.done is not None:
            self.done.set()
            return
        assert self.future is not None
        if self.future.done():  # cancelled by its waiter; the mutation took effect all the same
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Committer:
    """Group commit for one pool. `flash` None: nothing to sync before the index."""

    def __init__(self, index: Index, flash: Flash | None, name: str = "pool") -> None:
        self._index = index
        self._flash = flash if index.synced else None
        self._queue: deque[_Ticket] = deque()
        self._here: list[_Ticket] = []  # to be committed on the loop in its next turn; younger than all in the queue
        self._ready = threading.Condition()
        self._working = False
        self._closing = False
        self._worker = threading.Thread(target=self._work, name=f"committer-{name}", daemon=True)
        self._worker.start()

    def submit(self, mutation: Mutation[_T]) -> asyncio.Future[_T]:
        """Queues a mutation from a running loop. Cancelling the future does not undo the mutation."""
        ticket = _Ticket(mutation, asyncio.get_running_loop())
        self._enqueue(ticket)
        assert ticket.future is not None
        return ticket.future

    def submit_short(self, mutation: Mutation[_T]) -> asyncio.Future[_T]:
        """As `submit`, for a mutation of a few rows, which may be made on the loop."""
        if self._index.synced:
            return self.submit(mutation)
        loop = asyncio.get_running_loop()
        ticket = _Ticket(mutation, loop)
        with self._ready:
            if self._closing:
                raise RuntimeError("the committer is closed")
            if not self._here:
                loop.call_soon(self._commit_here)
            self._here.append(ticket)
        assert ticket.future is not None
        return ticket.future

    def run(self, mutation: Mutation[_T]) -> _T:
        """Queues a mutation and blocks until it is committed: for start-up, tools and tests without a loop."""
        ticket = _Ticket(mutation, None)
        self._enqueue(ticket)
        assert ticket.done is not None
        ticket.done.wait()
        if ticket.error is not None:
            raise ticket.error
        return ticket.result  # type: ignore[no-any-return]

    def _enqueue(self, ticket: _Ticket) -> None:
        with self._ready:
            if self._closing:
                raise RuntimeError("the committer is closed")
            self._queue_here()
            self._queue.append(ticket)
            self._ready.notify()

    def _queue_here(self) -> None:
        """Leaves what waits for the loop's next turn to the thread. Under the lock; notify after."""
        self._queue.extend(self._here)
        self._here.clear()

    def close(self) -> None:
        """Commits what is queued and ends the thread."""
        with self._ready:
            self._closing = True
            self._queue_here()
            self._ready.notify()
        self._worker.join()

    def _commit_here(self) -> None:
        """On the loop: one transaction for what this turn brought, if nobody else is writing."""
        with self._ready:
            tickets = self._here[:HERE_MAX]
            if not tickets:
                return
            batch = self._try_batch() if not self._queue and not self._working else None
            if batch is None:
                self._queue_here()
                self._ready.notify()
                return
            del self._here[:HERE_MAX]
            if self._here:
                asyncio.get_running_loop().call_soon(self._commit_here)
        try:
            self._apply(batch, tickets)
        except Exception:
            with self._ready:  # the thread tries once more, and finds the faulty one; it also tells what is wrong
                self._queue.extendleft(reversed(tickets))
                self._queue_here()
                self._ready.notify()
            return
        _settle_all(tickets)

    def _try_batch(self) -> Batch | None:
        try:
            return self._index.try_batch()
        except Exception:
            return None  # the thread meets it again, and tells the waiters

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._queue and not self._closing:
                    self._ready.wait()
                tickets = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]
                self._working = bool(tickets)
            if not tickets:
                return
            self._commit(tickets)
            self._settle(tickets)
            self._working = False

    def _commit(self, tickets: list[_Ticket]) -> None:
        """One transaction for all; on a surprise, one for each."""
        try:
            if self._flash is not None:
                self._flash.sync()
            batch = self._index.batch()
        except Exception as error:  # the device refuses: every one of them failed
            for ticket in tickets:
                ticket.error = error
            return
        try:
            self._apply(batch, tickets)
        except BaseException as error:
            self._retry_alone(tickets, self._index.storage_error(error))

    def _apply(self, batch: Batch, tickets: list[_Ticket]) -> None:
        """Runs the mutations and ends the batch. Raises a surprise, or what the commit raised: nothing was changed."""
        try:
            for ticket in tickets:
                ticket.result = ticket.error = None
                try:
                    ticket.result = ticket.mutation(batch)
                except StoreError as error:
                    ticket.error = error
        except BaseException:
            batch.abort()
            raise
        batch.commit()

    def _retry_alone(self, tickets: list[_Ticket], error: BaseException) -> None:
        if len(tickets) == 1:
            if not isinstance(error, StoreError):
                _log.error("a mutation failed: %r", error, exc_info=error)
            tickets[0].error = error
            return
        for ticket in tickets:
            self._commit([ticket])

    def _settle(self, tickets: list[_Ticket]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Ticket]] = {}
        for ticket in tickets:
            if ticket.loop is None:
                ticket.settle()
            else:
                by_loop.setdefault(ticket.loop, []).append(ticket)
        for loop, settled in by_loop.items():
            try:
                loop.call_soon_threadsafe(_settle_all, settled)
            except RuntimeError:  # the loop was closed while its waiter was cancelled
                pass


def _settle_all(tickets: list[_Ticket]) -> None:
    for ticket in tickets:
        ticket.settle()
