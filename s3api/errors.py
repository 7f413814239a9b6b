"""Every error code this gateway answers, one row each, and the one exception that carries a row to the border.

Owns the table. Does not know how an error is rendered (`s3api.pipeline`) nor storage (rows name StoreError kinds only).
Kind: table. Spec: AWS S3 API Reference, "Error responses"; docs/S3.md.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tiering import contract


class ErrorSpec(msgspec.Struct, frozen=True):
    """One row: the code and status a client sees, the default message, and whether the reply closes the connection."""

    code: str
    status: int
    message: str
    close: bool = False
    retry_s: int = 0  # > 0: sent as Retry-After


class S3Error(Exception):
    """An answer for the client. `fields` become extra elements of the error document."""

    def __init__(self, code: str, message: str = "", headers: bytes = b"", **fields: Any) -> None:
        self.spec = ERRORS[code]
        self.message = message or self.spec.message
        self.headers = headers
        self.fields = fields
        super().__init__(f"{code}: {self.message}")


_ROWS: Final = (
    ErrorSpec("AccessDenied", 403, "Access Denied."),
    ErrorSpec("InternalError", 500, "We encountered an internal error. Please try again."),
    ErrorSpec("InvalidArgument", 400, "Invalid argument."),
    ErrorSpec("NoSuchBucket", 404, "The specified bucket does not exist."),
    ErrorSpec("NoSuchKey", 404, "The specified key does not exist."),
    ErrorSpec("NotImplemented", 501, "A header or query you provided implies functionality that is not implemented."),
)

ERRORS: Final[dict[str, ErrorSpec]] = {row.code: row for row in _ROWS}

STORE_ERRORS: Final[dict[type[contract.StoreError], str]] = {
    contract.NoSuchBucket: "NoSuchBucket",
    contract.NoSuchKey: "NoSuchKey",
}
