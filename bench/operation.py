"""The operations that are compared, a row each.

Owns the table. Does not know how a peer is asked for one. Kind: table. Spec: bench/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Operation:
    """`sized` False: it does not depend on the objects' size, and is measured once. `writes`: it warms up for a round."""

    name: str
    says: str
    sized: bool = True
    writes: bool = False


OPERATIONS: Final = {
    operation.name: operation
    for operation in (
        Operation("GET", "an object that is hot"),
        Operation("HEAD", "the same without its bytes"),
        Operation("404", "GET of a key that is not there", sized=False),
        Operation("PUT kv", "into a relaxed pool; anywhere else: a PUT", writes=True),
        Operation("PUT standard", "into a durable pool; of the others those that may be durable", writes=True),
        Operation("DELETE", "of objects that are there, each once"),
        Operation("LOOKUP", "which of 256 keys are there, in one request", sized=False),
        Operation("BATCH", "several objects in one request"),
        Operation("LIST", "a page of a thousand keys, in `bench.growth`"),
        Operation("COLD", "GET of an object that is only in the backing store, each once"),
    )
}
