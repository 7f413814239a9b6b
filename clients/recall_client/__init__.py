"""Client of a Recall gateway: look up, read and write many blocks in one round trip, over HTTP or on the same host.

    from recall_client import RecallClient

Nothing here depends on the gateway's code; `LocalReader` needs the extra `local`.
Kind: table (of names). Spec: clients/README.md.
"""

from recall_client.aio import AsyncRecallClient
from recall_client.client import Entry, Lookup, Outcome, RecallClient
from recall_client.errors import BufferTooSmall, NotSupported, RecallError

__all__ = [
    "AsyncRecallClient",
    "BufferTooSmall",
    "Entry",
    "Lookup",
    "NotSupported",
    "Outcome",
    "RecallClient",
    "RecallError",
]
