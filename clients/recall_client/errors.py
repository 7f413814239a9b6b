"""What a client raises. Kind: table."""

from __future__ import annotations


class RecallError(Exception):
    """A request as a whole was refused or did not come through. `status` 0: no reply at all; `code` as S3 names it."""

    def __init__(self, message: str, code: str = "", status: int = 0) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.code = code
        self.status = status

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (0, 429, 500, 502, 503, 504)


class ReplyBroken(RecallError):
    """A reply ended early. What came before was whole."""


class NotSupported(RecallError):
    """The server is plain S3 and has nothing that means this."""


class BufferTooSmall(RecallError):
    """A block is longer than the buffer given for it."""
