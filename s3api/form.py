"""multipart/form-data as browsers post it to a bucket: the fields before the file, then the file, never held whole.

Promise: how the body was cut into pieces changes nothing; the file is handed on as it arrives; everything before it is
bounded; what stands after it is looked at only for a second file.

Owns the state of one form, and in `FormPayload` the reading of one. Does not know what any field means, nor signatures.
Kind: pure, sans-I/O, but for `FormPayload`, which is the owner of one body on the event loop. Invariants: a boundary
counts only as a whole line of its own, as RFC 2046 has it; names of fields are lower case, and none is given twice.
Spec: RFC 7578; RFC 2046 §5.1; AWS S3 User Guide, "Creating an HTML form (using AWS Signature Version 4)".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import unquote

from s3api.errors import S3Error
from s3api.message import Headers
from tiering.contract import Buffer, Checksum

FORM_BYTES_MAX: Final = 20 << 10
"""Most of a form before its file (AWS: "the form data and boundaries cannot exceed 20KB")."""
BOUNDARY_CHARS_MAX: Final = 70
_PADDING_MAX: Final = 64
"""Most blanks that may follow a boundary on its line."""
FILE: Final = "file"

_PREAMBLE, _HEAD, _FIELD, _FILE, _SKIP, _END = range(6)

_PARAMETER = re.compile(r';[ \t]*([^\s=;"]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', re.DOTALL)
_LINE_END = re.compile(rb"[ \t]*\r\n")


def boundary_of(headers: Headers) -> bytes:
    """The boundary a form's Content-Type names. Raises PreconditionFailed where the content is no form at all, as AWS
    does, and MalformedPOSTRequest for one without a usable boundary."""
    value = headers.get(b"content-type", b"").decode("latin-1").strip()
    kind, _, _ = value.partition(";")
    if kind.strip().lower() != "multipart/form-data":
        raise S3Error("PreconditionFailed", Condition="Bucket POST must be of the enclosure-type multipart/form-data")
    named = _parameters(value).get("boundary", "").rstrip(" ")
    if not 1 <= len(named) <= BOUNDARY_CHARS_MAX or "\r" in named or "\n" in named:
        raise S3Error("MalformedPOSTRequest")
    return named.encode("latin-1")


def _parameters(value: str) -> dict[str, str]:
    """The parameters of a header value by lower-case name; of a repeated one the first. Only `\\"` is an escape: old
    browsers send whole Windows paths."""
    found: dict[str, str] = {}
    for name, quoted, bare in _PARAMETER.findall(value):
        found.setdefault(name.lower(), quoted.replace('\\"', '"') if quoted else bare)
    return found


def base_name(filename: str) -> str:
    """What follows the last slash or backslash of a path that a browser gave as the name of a file."""
    return re.split(r"[/\\]", filename)[-1]


class FormParser:
    """Bytes of one form in, the file's bytes out. `fields` is whole once `file_at` is set or `ended` is true."""

    __slots__ = (
        "_delimiter",
        "_held",
        "_name",
        "_offset",
        "_state",
        "fields",
        "file_at",
        "filename",
    )

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.file_at: int | None = None  # where in the form the file's first byte is
        self._delimiter = b"\r\n--" + boundary
        self._state = _PREAMBLE
        self._held = b"\r\n"  # as if a line had ended before the first one: then every boundary looks the same
        self._offset = -2  # of the first held byte
        self._name = ""

    @property
    def ended(self) -> bool:
        """Whether the closing boundary was seen."""
        return self._state == _END

    def closing_bytes(self) -> int:
        """The least that follows a file: the closing boundary."""
        return len(self._delimiter) + 2

    def feed(self, view: Buffer) -> list[memoryview]:
        """The bytes of the file in `view`, in order; copies of it, so they outlive it.

        Raises MalformedPOSTRequest, MaxPostPreDataLengthExceededError, IncorrectNumberOfFilesInPostRequest.
        """
        if self._state == _END:  # an epilogue is nobody's
            return []
        data = self._held + bytes(view)
        out: list[memoryview] = []
        at = 0
        while self._state != _END:
            went = self._head(data, at) if self._state == _HEAD else self._content(data, at, out)
            if went is None:
                break
            at = went
        else:
            at = len(data)
        self._held = data[at:]
        self._offset += at
        if self.file_at is None and self._state != _END and self._offset + len(self._held) > FORM_BYTES_MAX:
            raise S3Error("MaxPostPreDataLengthExceededError")
        if len(self._held) > FORM_BYTES_MAX + len(self._delimiter):  # a head after the file without an end
            raise S3Error("MalformedPOSTRequest")
        return out

    def finish(self) -> None:
        """Raises MalformedPOSTRequest unless the form came to its end."""
        if self._state != _END:
            raise S3Error("MalformedPOSTRequest")

    def _content(self, data: bytes, at: int, out: list[memoryview]) -> int | None:
        """Goes through what is between two boundaries, as far as it is known to be that; None when more is needed."""
        found = self._boundary(data, at)
        if found is None:
            if self._state not in (_FILE, _SKIP):
                return None
            stop = self._safe_stop(data, at)
            if self._state == _FILE and stop > at:
                out.append(memoryview(data)[at:stop])
            return self._wait(stop, at)
        stop, after, last = found
        if self._state == _FIELD:
            self._keep(data[at:stop])
        elif self._state == _FILE and stop > at:
            out.append(memoryview(data)[at:stop])
        self._state = _END if last else _HEAD
        return after

    @staticmethod
    def _wait(stop: int, at: int) -> int | None:
        """Progress if there was any, else None: the loop of `feed` then ends with what is held."""
        return stop if stop > at else None

    def _boundary(self, data: bytes, at: int) -> tuple[int, int, bool] | None:
        """The next boundary: where it starts, where what follows its line starts, whether it closes the form. None when
        there is none yet, or when it takes more bytes to tell."""
        while True:
            start = data.find(self._delimiter, at)
            if start < 0:
                return None
            after = start + len(self._delimiter)
            if data.startswith(b"--", after):
                return start, after + 2, True
            line = _LINE_END.match(data, after, after + _PADDING_MAX + 2)
            if line is not None:
                return start, line.end(), False
            if self._may_be_boundary(data, after):
                return None
            at = start + 2  # the content only looks like it

    @staticmethod
    def _may_be_boundary(data: bytes, after: int) -> bool:
        rest = data[after : after + _PADDING_MAX + 2]
        return rest in (b"", b"-") or (len(rest) < _PADDING_MAX + 2 and rest.strip(b" \t") in (b"", b"\r"))

    def _safe_stop(self, data: bytes, at: int) -> int:
        """Up to where the bytes from `at` cannot be part of a boundary."""
        delimiter = self._delimiter
        start = data.find(delimiter, at)
        while start >= 0 and not self._may_be_boundary(data, start + len(delimiter)):
            start = data.find(delimiter, start + 2)
        if start >= 0:
            return start
        for held in range(min(len(delimiter) - 1, len(data) - at), 0, -1):
            if data.endswith(delimiter[:held]):
                return len(data) - held
        return len(data)

    def _head(self, data: bytes, at: int) -> int | None:
        """Reads the head of a part; None when it is not whole yet."""
        if data.startswith(b"\r\n", at):
            raise S3Error("MalformedPOSTRequest", "A part of the form has no head.")
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            return None
        after = end + 4
        name, filename = _part_name(data[at:end].split(b"\r\n"))
        if name == FILE:
            if self.file_at is not None:
                raise S3Error("IncorrectNumberOfFilesInPostRequest")
            self.filename = base_name(filename)
            self.file_at = self._offset + after
            if self.file_at > FORM_BYTES_MAX:
                raise S3Error("MaxPostPreDataLengthExceededError")
            self._state = _FILE
        elif self.file_at is not None:
            self._state = _SKIP
        else:
            if name in self.fields:
                raise S3Error("InvalidArgument", f"The field {name} is given more than once.", ArgumentName=name[:256])
            self._name = name
            self._state = _FIELD
        return after

    def _keep(self, value: bytes) -> None:
        try:
            self.fields[self._name] = value.decode()
        except UnicodeDecodeError:
            raise S3Error("MalformedPOSTRequest", f"The field {self._name} is not UTF-8.") from None


def _part_name(lines: list[bytes]) -> tuple[str, str]:
    """Field name in lower case and file name of a part's head. Raises MalformedPOSTRequest, NotImplemented."""
    disposition = ""
    for line in lines:
        header, _, value = line.partition(b":")
        match header.strip().lower():
            case b"content-disposition":
                try:
                    disposition = value.decode().strip()
                except UnicodeDecodeError:
                    disposition = value.decode("latin-1").strip()
            case b"content-transfer-encoding":
                if value.strip().lower() not in (b"binary", b"7bit", b"8bit"):
                    raise S3Error("NotImplemented", Header="Content-Transfer-Encoding")
    parameters = _parameters(disposition)
    name = parameters.get("name", "").lower()
    if disposition.partition(";")[0].strip().lower() != "form-data" or not name:
        raise S3Error("MalformedPOSTRequest")
    filename = parameters.get("filename", "")
    if not filename and "filename*" in parameters:
        filename = unquote(parameters["filename*"].rpartition("'")[2])
    return name, filename


_KEPT_OF_REQUEST: Final = frozenset(
    {b"host", b"origin", b"referer", b"user-agent", b"x-amz-expected-bucket-owner", b"x-amz-request-payer"}
)
_FIELDS: Final = frozenset(
    {
        "cache-control", "content-disposition", "content-encoding", "content-language", "content-md5", "content-type",
        "expires", "x-amz-acl", "x-amz-sdk-checksum-algorithm", "x-amz-storage-class", "x-amz-website-redirect-location",
    }
)  # fmt: skip
_FIELD_PREFIXES: Final = (
    "x-amz-checksum-",
    "x-amz-grant-",
    "x-amz-meta-",
    "x-amz-object-lock-",
    "x-amz-server-side-encryption",
    "x-recall-",
)
_REFUSED: Final = frozenset({"if-match", "if-none-match", "x-amz-copy-source", "x-amz-write-offset-bytes"})


def headers_of(fields: Mapping[str, str], sent: Headers) -> Headers:
    """The headers of the PUT that a form stands for: those its fields name, and who sent it of the request's own.

    Raises NotImplemented for a field that would make it another operation, or a conditional one.
    """
    headers = {
        name: value for name, value in sent.items() if name in _KEPT_OF_REQUEST or name.startswith(b"x-forwarded-")
    }
    for name, value in fields.items():
        if name in _REFUSED:
            raise S3Error("NotImplemented", Header=name)
        if name in _FIELDS or name.startswith(_FIELD_PREFIXES):
            headers[name.encode()] = value.encode()
        elif name == "acl":
            headers[b"x-amz-acl"] = value.encode()
    return headers


class Source(Protocol):
    """What a form is read from: the content of a request."""

    length: int | None
    read_bytes: int

    async def read(self) -> memoryview: ...


class FormPayload:
    """The file of a form as the content of a call; implements `s3api.call.Payload`.

    `fields`: what stood before it, once `begin` is done. `bounds`: the least and most bytes the file may have; to be set before it is read. `length` is None: a file ends
    where its boundary comes.
    """

    __slots__ = ("_parser", "_pending", "_read", "_source", "bounds", "fields", "length", "trailer")

    def __init__(self, source: Source, boundary: bytes) -> None:
        self.length: int | None = None
        self.trailer: Checksum | None = None
        self.fields: dict[str, str] = {}
        self.bounds: tuple[int, int | None] = (0, None)
        self._source = source
        self._parser = FormParser(boundary)
        self._pending: list[memoryview] = []
        self._read = 0

    @property
    def read_bytes(self) -> int:
        """Bytes of the form read so far."""
        return self._source.read_bytes

    async def begin(self) -> dict[str, str]:
        """Reads up to the file; gives `fields`, with `${filename}` in their values replaced by the file's name.

        Raises InvalidArgument when there is no file, and what `FormParser.feed` does.
        """
        parser = self._parser
        while parser.file_at is None:
            view = await self._source.read()
            if len(view):
                self._pending += parser.feed(view)
            if parser.ended and parser.file_at is None:
                raise S3Error(
                    "InvalidArgument",
                    "POST requires exactly one file upload per request.",
                    ArgumentName=FILE,
                    ArgumentValue="0",
                )
            if not len(view):
                parser.finish()
        self._pending.reverse()
        self.fields = {name: value.replace("${filename}", parser.filename) for name, value in parser.fields.items()}
        return self.fields

    def size_max(self) -> int | None:
        """What the file is at most, by the length of the request and by `bounds`; exact for a form that ends with it."""
        left, most = self._left(), self.bounds[1]
        if left is None or most is None:
            return most if left is None else left
        return min(left, most)

    def _left(self) -> int | None:
        """What the length of the request leaves for the file."""
        stated, file_at = self._source.length, self._parser.file_at
        assert file_at is not None, "the fields are read first"
        return None if stated is None else max(0, stated - file_at - self._parser.closing_bytes())

    def at_hand(self) -> Sequence[memoryview] | None:
        """See `s3api.call.Payload`: a form is read piece by piece."""
        return None

    def done(self) -> None:
        """See `s3api.call.Payload`: nothing was lent."""

    async def read(self) -> memoryview:
        """See `s3api.call.Payload`. Raises EntityTooLarge and EntityTooSmall by `bounds`, and what `feed` does."""
        while not self._pending:
            view = await self._source.read()
            if not len(view):
                self._finish()
                return view
            self._pending = self._parser.feed(view)
            self._pending.reverse()
        piece = self._pending.pop()
        self._read += len(piece)
        left, most = self._left(), self.bounds[1]
        if most is not None and self._read > most:
            # Not read to its end only to be counted: nearly every form ends with its file and one line end.
            raise S3Error("EntityTooLarge", ProposedSize=max((left or 0) - 2, self._read), MaxSizeAllowed=most)
        if left is not None and self._read > left:  # no closing boundary can follow any more
            raise S3Error("MalformedPOSTRequest")
        return piece

    def _finish(self) -> None:
        self._parser.finish()
        least = self.bounds[0]
        if self._read < least:
            raise S3Error("EntityTooSmall", ProposedSize=self._read, MinSizeAllowed=least)

    async def document(self) -> bytes:
        """A form has no document."""
        raise S3Error("MalformedPOSTRequest")
