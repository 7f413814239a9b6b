"""Typed readers for query and header values; each error names the parameter it is about.

Owns nothing. Does not know which operation asks, nor the request object: text in, values out.
Kind: pure. Invariants: a reader returns a value of its type or raises S3Error; nothing else leaves it.
Spec: RFC 9110 §5.6.7 (dates), §8.8.3 (entity tags), §13; RFC 4648 §4; AWS S3 API Reference.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from s3api.errors import S3Error
from tiering.contract import PARTS_MAX

NO_QUERY: Final[dict[str, str]] = {}
"""The query of a request that has none: shared, never changed."""

PERCENT: Final = 0x25
"""As a number: text looked for in bytes is taken for one first, and refused as that, which costs more than the search."""
QUERY_PAIRS_MAX: Final = 128
PAGE_NUMBER_MAX: Final = (1 << 31) - 1
"""Largest number a page size or part marker may state, though it is lowered to what a page holds."""

_INT = re.compile(r"[+-]?[0-9]{1,18}\Z")
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
_IMF = re.compile(
    r"[A-Za-z]{3}, ?(\d{1,2}) ([A-Za-z]{3}) (\d{4}) (\d\d):(\d\d):(\d\d) (?:GMT|UTC|([+-])([01]\d|2[0-3])([0-5]\d))\Z",
    re.ASCII,
)
_RFC850 = re.compile(r"[A-Za-z]{6,9}, (\d\d)-([A-Za-z]{3})-(\d\d) (\d\d):(\d\d):(\d\d) GMT\Z", re.ASCII)
_ASCTIME = re.compile(r"[A-Za-z]{3} ([A-Za-z]{3}) ([ \d]\d) (\d\d):(\d\d):(\d\d) (\d{4})\Z", re.ASCII)
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?Z\Z", re.ASCII)
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ETAG = re.compile(r'\s*(?:W/)?"([^"]*)"\s*(?:,|\Z)')
_BYTE_OF: Final = {
    f"{high}{low}".encode(): bytes((int(high + low, 16),))
    for high in "0123456789abcdefABCDEF"
    for low in "0123456789abcdefABCDEF"
}


def invalid(name: str, value: str, why: str = "") -> S3Error:
    """400 InvalidArgument about one parameter, with the elements AWS gives: ArgumentName and ArgumentValue."""
    return S3Error(
        "InvalidArgument",
        f"The value of {name} is not valid{': ' + why if why else ''}.",
        ArgumentName=name,
        ArgumentValue=value[:256],
    )


def percent_decode(text: bytes) -> bytes:
    """Each `%XX` replaced by its byte, once. Raises InvalidURI at a percent sign that begins no escape.

    Not `urllib.parse.unquote_to_bytes`, which leaves such a sign standing and so reads two texts as one.
    """
    pieces = text.split(b"%")
    try:
        for at in range(1, len(pieces)):
            piece = pieces[at]
            pieces[at] = _BYTE_OF[piece[:2]] + piece[2:]
    except KeyError:
        raise S3Error("InvalidURI", "A percent sign in the request target begins no escape.") from None
    return b"".join(pieces)


def query_pairs(raw: bytes) -> list[tuple[bytes, bytes]]:
    """`raw` (without `?`) cut into percent-decoded name and value, in order sent; a name without `=` has value b"".

    `+` is a space, as AWS reads it: what is signed and what is done then agree. Empty pieces (`&&`) are dropped.
    """
    if not raw:
        return []
    pieces = raw.split(b"&")
    if len(pieces) > QUERY_PAIRS_MAX:
        raise S3Error("InvalidURI", f"The query string has more than {QUERY_PAIRS_MAX} parameters.")
    coded = b"%" in raw or b"+" in raw
    pairs = []
    for piece in pieces:
        if piece:
            name, _, value = piece.partition(b"=")
            if coded:
                name = percent_decode(name.replace(b"+", b" "))
                value = percent_decode(value.replace(b"+", b" "))
            pairs.append((name, value))
    return pairs


def query_headers(query: Mapping[str, str], wanted: re.Pattern[str]) -> dict[bytes, bytes]:
    """The headers that a presigned URL carries in its query: the parameters whose lower-case name begins as `wanted`.

    Raises InvalidArgument for what cannot be a header.
    """
    found: dict[bytes, bytes] = {}
    for name, value in query.items():
        lowered = name.lower()
        if wanted.match(lowered):
            # A line feed would let two values be read as one, or one as two, under the same signature.
            if not _HEADER_NAME.fullmatch(lowered) or lowered.encode() in found or _CONTROL.search(value):
                raise invalid(name, value, "it must be one valid header")
            found[lowered.encode()] = value.strip().encode()
    return found


def parse_query(raw: bytes) -> dict[str, str]:
    """The query as text by name. A repeated name is refused: which of the two counts must not be a guess."""
    if not raw:
        return NO_QUERY
    query: dict[str, str] = {}
    for name, value in query_pairs(raw):
        try:
            text = name.decode()
            if text in query:
                raise invalid(text, value.decode(), "the parameter is given more than once")
            query[text] = value.decode()
        except UnicodeDecodeError:
            raise S3Error("InvalidURI", "The query string is not UTF-8.") from None
    return query


def integer(name: str, value: str, low: int, high: int) -> int:
    """A whole number in `low..high`, both included."""
    if not _INT.match(value):
        raise invalid(name, value, "it must be a whole number")
    number = int(value)
    if not low <= number <= high:
        raise invalid(name, value, f"it must be between {low} and {high}")
    return number


def part_number(text: str) -> int:
    """A `partNumber` of a query. Raises InvalidArgument, in AWS's words."""
    said = f"Part number must be an integer between 1 and {PARTS_MAX}, inclusive"
    return counted("partNumber", text, PARTS_MAX, said)


def counted(name: str, text: str, high: int, message: str) -> int:
    """A whole number in `1..high`. Raises InvalidArgument with that message."""
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= high):
        raise S3Error("InvalidArgument", message, ArgumentName=name, ArgumentValue=text[:64])
    return int(text)


def query_integer(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """As `integer`; absent or empty gives `default`. A value above `high` is lowered to it, as S3 does for page sizes."""
    value = query.get(name, "")
    if not value:
        return default
    number = int(value) if _INT.match(value) else -PAGE_NUMBER_MAX - 2
    if not -PAGE_NUMBER_MAX - 1 <= number <= PAGE_NUMBER_MAX:
        message = f"Provided {name} not an integer or within integer range"
    elif number < low:
        message = f"Argument {name} must be an integer between {low} and {PAGE_NUMBER_MAX}"
    else:
        return min(number, high)
    raise S3Error("InvalidArgument", message, ArgumentName=name, ArgumentValue=value[:256])


def boolean(name: str, value: str) -> bool:
    """`true` or `false` in any case."""
    lowered = value.lower()
    if lowered not in ("true", "false"):
        raise invalid(name, value, "it must be true or false")
    return lowered == "true"


def choice(name: str, value: str, allowed: Collection[str], *, fold: bool = False) -> str:
    """One of `allowed`; `fold` compares without case and answers the spelling of `allowed`."""
    if value in allowed:
        return value
    if fold:
        for each in allowed:
            if each.lower() == value.lower():
                return each
    raise invalid(name, value, f"it must be one of {', '.join(sorted(allowed))}")


def date(name: str, value: str) -> int:
    """An HTTP date in any of its three forms, or ISO 8601 in UTC, as Unix seconds."""
    seconds = http_time(value)
    if seconds is None:
        raise invalid(name, value, "it must be an HTTP date")
    return seconds


def http_time(value: str) -> int | None:
    """As `date`, None where it is none: RFC 9110 has malformed conditions ignored.

    A zone in numbers is taken, which RFC 5322 has: with one, `-0000`, botocore signs a request that came with a Date.
    """
    text, ahead_s = value.strip(), 0
    if match := _IMF.match(text):
        day, month, year, hour, minute, second, sign, hours, minutes = match.groups()
        if sign:
            ahead_s = int(f"{sign}1") * (int(hours) * 3600 + int(minutes) * 60)
    elif match := _RFC850.match(text):
        day, month, year, hour, minute, second = match.groups()
        # Two-digit years: RFC 9110 §5.6.7 has a year that seems far ahead mean the past; S3 objects begin in 2006.
        year = f"20{year}" if int(year) < 70 else f"19{year}"
    elif match := _ASCTIME.match(text):
        month, day, hour, minute, second, year = match.groups()
    else:
        return iso_time(text)
    if month not in _MONTHS:
        return None
    at_s = epoch_s(int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second))
    return None if at_s is None else at_s - ahead_s


def iso_time(value: str) -> int | None:
    """ISO 8601 in UTC, `2030-01-31T12:00:00.000Z` with or without a fraction, as Unix seconds; None where it is none."""
    match = _ISO.match(value.strip())
    return None if match is None else epoch_s(*map(int, match.groups()))


def epoch_s(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    """Unix seconds of a UTC time; None where the calendar has no such moment. A leap second counts as the one before."""
    if not (1 <= month <= 12 and 1970 <= year <= 9999 and hour < 24 and minute < 60 and second <= 60):
        return None
    if not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return calendar.timegm((year, month, day, hour, minute, min(second, 59)))


def base64_exact(name: str, value: str, length: int, code: str = "InvalidRequest") -> bytes:
    """Strict base64 of exactly `length` bytes; refused with `code`, naming the header."""
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != length or base64.b64encode(raw).decode() != value:
        if code == "InvalidDigest":
            fields: dict[str, Any] = {name: value[:256]}  # S3 gives the value in an element of the header's name
            raise S3Error(code, **fields)
        raise S3Error(code, f"Value for {name} header is invalid.")
    return raw


def etags(name: str, value: str) -> tuple[str, ...]:
    """A list of entity tags without quotes; `("*",)` for any. Weak marks are dropped: S3 has only strong tags.

    Lenient, as AWS is: a tag may lack its quotes or one of them, and what is no tag matches none. Raises InvalidArgument
    for an empty list.
    """
    found = []
    at = 0
    while at < len(value):
        match = _ETAG.match(value, at)
        if match is not None:
            found.append(match.group(1))
            at = match.end()
            continue
        comma = value.find(",", at)
        until = len(value) if comma < 0 else comma
        bare = value[at:until].strip().removeprefix("W/").removeprefix('"').removesuffix('"')
        if bare:
            found.append(bare)
        at = until + 1
    if not found:
        raise invalid(name, value, "it must be * or a list of entity tags")
    return tuple(found)
