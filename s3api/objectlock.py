"""Object lock as requests and documents say it: retention, legal hold, a bucket's default, both ways.

Promise: what these give is whole and of the future; whether it may replace what stands is the store's judgement.

Owns nothing. Does not know stores or rights. Kind: pure; the parse of a stored document is kept by its text.
Invariants: `load(render(d)) == d` for every default; a date has a time zone, or it is none.
Spec: AWS S3 User Guide, "Locking objects with Object Lock"; PutObjectLockConfiguration, PutObjectRetention,
PutObjectLegalHold, PutObject (`x-amz-object-lock-*`).
"""

from __future__ import annotations

import datetime
import functools
from typing import Final, Literal, NamedTuple

from s3api import xml
from s3api.errors import S3Error
from s3api.message import Headers
from tiering.contract import Lock

DOCUMENT: Final = "object-lock"
MODE: Final = b"x-amz-object-lock-mode"
UNTIL: Final = b"x-amz-object-lock-retain-until-date"
HOLD: Final = b"x-amz-object-lock-legal-hold"
HEADERS: Final = frozenset({MODE, UNTIL, HOLD})
BYPASS: Final = b"x-amz-bypass-governance-retention"

DAYS_MAX: Final = 36_500
YEARS_MAX: Final = 100
_UTC: Final = datetime.UTC

Mode = Literal["GOVERNANCE", "COMPLIANCE"]


class Default(NamedTuple):
    """The retention that objects of a bucket get when they name none; of `days` and `years` one is 0."""

    mode: Mode
    days: int = 0
    years: int = 0

    def until_ms(self, now_ms: int) -> int:
        """When it ends for an object made now: so many days, or the same day so many years on."""
        at = datetime.datetime.fromtimestamp(now_ms / 1000, _UTC)
        if self.days:
            return now_ms + self.days * 86_400_000
        try:
            later = at.replace(year=at.year + self.years)
        except ValueError:  # the 29th of February
            later = at.replace(year=at.year + self.years, month=3, day=1)
        return now_ms + round((later - at).total_seconds()) * 1000


def _mode(text: str) -> Mode | None:
    return "GOVERNANCE" if text == "GOVERNANCE" else "COMPLIANCE" if text == "COMPLIANCE" else None


def _moment_ms(text: str) -> int | None:
    """ISO 8601 with a time zone as Unix milliseconds; None where it is none."""
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if at.tzinfo is None else round(at.timestamp() * 1000)


def _invalid(name: bytes, message: str, value: str) -> S3Error:
    return S3Error("InvalidArgument", message, ArgumentName=name.decode(), ArgumentValue=value[:256])


def _future(until_ms: int, now_ms: int, text: str) -> int:
    if until_ms <= now_ms:
        raise _invalid(UNTIL, "The retain until date must be in the future!", text)
    return until_ms


def headers_lock(headers: Headers, now_ms: int) -> Lock | None:
    """What the headers of a write say, None for nothing. Raises InvalidArgument."""
    if HEADERS.isdisjoint(headers):
        return None
    mode, until, hold = (headers.get(name, b"").decode("latin-1").strip() for name in (MODE, UNTIL, HOLD))
    if bool(mode) != bool(until):
        missing = UNTIL if mode else MODE
        both = f"{UNTIL.decode()} and {MODE.decode()} must both be supplied."
        raise _invalid(missing, both, "")
    if hold not in ("", "ON", "OFF"):
        raise _invalid(HOLD, "Legal Hold must be either of 'ON' or 'OFF'", hold)
    kept = None if not hold else hold == "ON"
    if not mode:
        return None if kept is None else Lock(legal_hold=kept)
    known, until_ms = _mode(mode), _moment_ms(until)
    if known is None:
        raise _invalid(MODE, "Unknown wormMode directive.", mode)
    if until_ms is None:
        raise _invalid(UNTIL, "The retain until date must be provided in ISO 8601 format", until)
    return Lock(known, _future(until_ms, now_ms, until), kept)


def parse_retention(body: bytes, now_ms: int) -> Lock:
    """A `Retention` document; without mode and date it ends the retention. Raises MalformedXML, InvalidArgument."""
    root = _root(body, "Retention")
    mode, until = root.text("Mode").strip(), root.text("RetainUntilDate").strip()
    if not mode and not until:
        return Lock()
    known, until_ms = _mode(mode), _moment_ms(until)
    if known is None or until_ms is None:
        raise S3Error("MalformedXML")
    return Lock(known, _future(until_ms, now_ms, until))


def parse_legal_hold(body: bytes) -> bool:
    """A `LegalHold` document. Raises MalformedXML."""
    status = _root(body, "LegalHold").text("Status").strip()
    if status not in ("ON", "OFF"):
        raise S3Error("MalformedXML")
    return status == "ON"


def _root(body: bytes, name: str) -> xml.Node:
    if not body.strip():  # of these documents an empty one is malformed, as AWS has it
        raise S3Error("MalformedXML")
    return xml.parse(body, name)


def parse_configuration(body: bytes) -> Default | None:
    """An `ObjectLockConfiguration` document; None where it has no rule. Raises MalformedXML, InvalidArgument."""
    root = xml.parse(body, "ObjectLockConfiguration")
    if root.text("ObjectLockEnabled").strip() != "Enabled":
        raise S3Error("MalformedXML")
    rule = root.find("Rule")
    if rule is None:
        return None
    found = rule.find("DefaultRetention")
    if found is None:
        raise S3Error("MalformedXML")
    mode = _mode(found.text("Mode").strip())
    days, years = found.find("Days"), found.find("Years")
    if mode is None or (days is None) == (years is None):
        raise S3Error("MalformedXML")
    if days is not None:
        return Default(mode, days=_period("Days", days.own, DAYS_MAX))
    assert years is not None
    return Default(mode, years=_period("Years", years.own, YEARS_MAX))


def _period(name: str, text: str, most: int) -> int:
    stripped = text.strip()
    digits = stripped.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise S3Error("MalformedXML")
    number = int(stripped)
    if number <= 0:
        message = "Default retention period must be a positive integer value."
    elif number > most:
        message = "Default retention period too large."
    else:
        return number
    raise S3Error("InvalidArgument", message, ArgumentName=name, ArgumentValue=stripped)


def render(default: Default | None) -> str:
    """The document, as it is kept and as it is read back."""
    writer = xml.XmlWriter("ObjectLockConfiguration")
    writer.leaf("ObjectLockEnabled", "Enabled")
    if default is not None:
        with writer.nested("Rule"), writer.nested("DefaultRetention"):
            writer.leaf("Mode", default.mode)
            if default.days:
                writer.leaf("Days", default.days)
            else:
                writer.leaf("Years", default.years)
    return writer.finish().decode()


@functools.lru_cache(maxsize=256)
def load(text: str) -> Default | None:
    """The default that a kept document sets; "" is none."""
    return parse_configuration(text.encode()) if text else None
