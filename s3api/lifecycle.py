"""Lifecycle rules of a bucket: the document both ways, and what is due when.

Promise: `parse` takes what AWS takes and refuses what it refuses; the functions below it are the only judgement of
rules, so that the `x-amz-expiration` of a reply and the keeper's duty cannot disagree.

A "day" has a length: with AWS's a moment is days later, rounded up to midnight UTC; with any other (for tests) it is
exactly that many days later.

Owns nothing. Does not know stores, clocks or requests: values and times are handed in. Kind: pure. Invariants: the text
`store` makes is what `load` reads; a rule without an id got one from its content and place.
Spec: AWS S3 User Guide, "Lifecycle configuration elements", "Examples of S3 Lifecycle configurations";
PutBucketLifecycleConfiguration.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from s3api import xml
from s3api.errors import S3Error
from s3api.moment import iso_date
from s3api.params import epoch_s
from tiering.contract import ObjectInfo, content_bytes

DAY_MS: Final = 86_400_000
RULES_MAX: Final = 1000
ID_CHARS_MAX: Final = 255
NEWER_VERSIONS_MAX: Final = 100
DAYS_MAX: Final = (1 << 31) - 1
SMALL_BYTES: Final = 128 << 10
"""Objects below this are not worth a transition unless a rule speaks of sizes itself (AWS: default minimum)."""
TRANSITION_CLASSES: Final = (
    "STANDARD_IA",
    "INTELLIGENT_TIERING",
    "ONEZONE_IA",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
)
"""From warm to cold: an object only moves on (AWS: "Supported transitions")."""
_RANK: Final = {name: rank for rank, name in enumerate(TRANSITION_CLASSES, start=1)}
_ANY_SIZE: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})

MINIMUM_HEADER: Final = b"x-amz-transition-default-minimum-object-size"
Minimum = Literal["all_storage_classes_128K", "varies_by_storage_class"]
_MINIMA: Final[dict[str, Minimum]] = {
    "all_storage_classes_128K": "all_storage_classes_128K",
    "varies_by_storage_class": "varies_by_storage_class",
}
_DATE: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?(?:Z|\+00:00|\+0000)?)?\Z", re.ASCII
)
_RULE_CHILDREN: Final = frozenset(
    {
        "ID",
        "Prefix",
        "Filter",
        "Status",
        "Expiration",
        "Transition",
        "NoncurrentVersionExpiration",
        "NoncurrentVersionTransition",
        "AbortIncompleteMultipartUpload",
    }
)


class Filter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which objects; everything given must hold. `legacy`: the document had the old `Prefix` beside the rule's status."""

    prefix: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    larger: int | None = None  # ObjectSizeGreaterThan
    smaller: int | None = None  # ObjectSizeLessThan
    legacy: bool = False


class Expiration(msgspec.Struct, frozen=True, omit_defaults=True):
    """Exactly one of the three. `date_ms`: midnight UTC. `marker`: delete markers with nothing behind them go."""

    days: int | None = None
    date_ms: int | None = None
    marker: bool | None = None


class Transition(msgspec.Struct, frozen=True, omit_defaults=True):
    storage_class: str
    days: int | None = None
    date_ms: int | None = None


class Noncurrent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What happens to versions that were replaced: `storage_class` "" deletes. The newest `newer` of them stay."""

    days: int | None = None
    newer: int | None = None
    storage_class: str = ""


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    enabled: bool
    filter: Filter = Filter()
    expiration: Expiration | None = None
    transitions: tuple[Transition, ...] = ()
    noncurrent: Noncurrent | None = None
    noncurrent_transitions: tuple[Noncurrent, ...] = ()
    abort_days: int | None = None


class Rules(msgspec.Struct, frozen=True, omit_defaults=True):
    """A bucket's lifecycle configuration."""

    rules: tuple[Rule, ...]
    minimum: Minimum = "all_storage_classes_128K"


class Due(NamedTuple):
    """When a rule acts, and which."""

    at_ms: int
    rule_id: str


# -- the document ------------------------------------------------------------------------------------------------


def _malformed(why: str) -> S3Error:
    return S3Error("MalformedXML", f"The lifecycle configuration is not valid: {why}.")


def parse(body: bytes, minimum: str = "") -> Rules:
    """A LifecycleConfiguration document. `minimum`: the header's value, "" for none.

    Raises MalformedXML, InvalidArgument, InvalidRequest.
    """
    if minimum and minimum not in _MINIMA:
        raise S3Error(
            "InvalidArgument",
            f"The value of {MINIMUM_HEADER.decode()} must be one of {', '.join(_MINIMA)}.",
            ArgumentName=MINIMUM_HEADER.decode(),
            ArgumentValue=minimum[:64],
        )
    root = xml.parse(body, "LifecycleConfiguration")
    nodes = root.all("Rule")
    if len(nodes) != len(root.children):
        raise _malformed("only Rule elements are expected")
    if not nodes:
        raise _malformed("it has no rule")
    if len(nodes) > RULES_MAX:
        raise S3Error(
            "InvalidRequest", f"The number of lifecycle rules must not exceed the limit of {RULES_MAX} rules."
        )
    rules = tuple(_rule(node, number) for number, node in enumerate(nodes, start=1))
    if len({rule.id for rule in rules}) != len(rules):
        raise S3Error("InvalidArgument", "Rule ID must be unique. Found same ID for one or more rules.")
    return Rules(rules, _MINIMA[minimum]) if minimum else Rules(rules)


def _rule(node: xml.Node, number: int) -> Rule:
    for child in node.children:
        if child.name not in _RULE_CHILDREN:
            raise _malformed(f"a rule has no element {child.name}")
    status = node.required("Status").strip()
    if status not in ("Enabled", "Disabled"):
        raise _malformed("Status must be Enabled or Disabled")
    identity = node.text("ID")
    if len(identity) > ID_CHARS_MAX:
        raise S3Error("InvalidArgument", f"ID length should not exceed allowed limit of {ID_CHARS_MAX}")
    rule = Rule(
        id=identity,
        enabled=status == "Enabled",
        filter=_filter(node),
        expiration=_expiration(node.find("Expiration")),
        transitions=tuple(_transition(each) for each in node.all("Transition")),
        noncurrent=_noncurrent(node.find("NoncurrentVersionExpiration")),
        noncurrent_transitions=tuple(_noncurrent_transition(each) for each in node.all("NoncurrentVersionTransition")),
        abort_days=_abort_days(node.find("AbortIncompleteMultipartUpload")),
    )
    _check(rule)
    return rule if rule.id else msgspec.structs.replace(rule, id=_made_id(rule, number))


def _made_id(rule: Rule, number: int) -> str:
    """An id from content and place: the same document gets the same ids, and two like rules different ones."""
    digest = hashlib.sha256(b"%d:%b" % (number, msgspec.json.encode(rule))).digest()
    return base64.urlsafe_b64encode(digest[:30]).decode()


def _filter(rule: xml.Node) -> Filter:
    old, node = rule.find("Prefix"), rule.find("Filter")
    if (old is None) == (node is None):
        raise _malformed("a rule has either Filter or Prefix")
    if node is None:
        return Filter(prefix=old.own if old is not None else "", legacy=True)
    both = node.find("And")
    if both is not None:
        if len(node.children) > 1:
            raise _malformed("And stands alone in a Filter")
        found = _predicates(both, "And")
        if (found.prefix is not None) + len(found.tags) + (found.larger is not None) + (found.smaller is not None) < 2:
            raise _malformed("And needs at least two predicates")
        return found
    found = _predicates(node, "Filter")
    # An empty prefix says nothing, and clients send it beside a real predicate.
    said = bool(found.prefix) + len(found.tags) + (found.larger is not None) + (found.smaller is not None)
    if said > 1:
        raise _malformed("a Filter has one predicate, or several inside And")
    return found


def _predicates(node: xml.Node, inside: str) -> Filter:
    for child in node.children:
        if child.name not in ("Prefix", "Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan"):
            raise _malformed(f"{inside} has no element {child.name}")
    prefix = node.find("Prefix")
    tags = tuple((tag.required("Key"), tag.required("Value")) for tag in node.all("Tag"))
    if len({key for key, _ in tags}) != len(tags):
        raise S3Error("InvalidRequest", "Duplicate Tag Keys are not allowed.")
    for key, value in tags:
        if not 1 <= len(key) <= 128 or len(value) > 256:
            raise S3Error("InvalidTag", "The tag of a lifecycle filter is not valid.", TagKey=key[:128])
    larger, smaller = _size(node, "ObjectSizeGreaterThan"), _size(node, "ObjectSizeLessThan")
    if larger is not None and smaller is not None and larger >= smaller:
        raise S3Error("InvalidRequest", "'ObjectSizeLessThan' has to be a value greater than 'ObjectSizeGreaterThan'.")
    return Filter(None if prefix is None else prefix.own, tags, larger, smaller)


def _size(node: xml.Node, name: str) -> int | None:
    return None if node.find(name) is None else node.integer(name, 0, (1 << 53) - 1)


def _number(node: xml.Node, name: str, low: int, what: str, high: int = DAYS_MAX) -> int | None:
    """A number of days or versions; InvalidArgument where it is a number out of range, MalformedXML where it is none."""
    child = node.find(name)
    if child is None:
        return None
    text = child.own.strip()
    if not re.fullmatch(r"[+-]?\d{1,12}", text, re.ASCII):
        raise _malformed(f"{name} must be a whole number")
    value = int(text)
    if not low <= value <= high:
        least = "a positive integer" if low == 1 else "nonnegative"
        raise S3Error("InvalidArgument", f"'{name}' for {what} must be {least} of at most {high}")
    return value


def _date(node: xml.Node) -> int | None:
    child = node.find("Date")
    if child is None:
        return None
    match = _DATE.match(child.own.strip())
    at_s = None
    if match is not None:
        year, month, day, hour, minute, second = (int(each or 0) for each in match.groups())
        at_s = epoch_s(year, month, day, hour, minute, second)
    if at_s is None:
        raise _malformed("Date must be an ISO 8601 date")
    if at_s % 86_400:
        raise S3Error("InvalidArgument", "'Date' must be at midnight GMT")
    return at_s * 1000


def _expiration(node: xml.Node | None) -> Expiration | None:
    if node is None:
        return None
    marker = "ExpiredObjectDeleteMarker"
    flag = None if node.find(marker) is None else node.boolean(marker)
    found = Expiration(_number(node, "Days", 1, "Expiration action"), _date(node), flag)
    given = (found.days is not None) + (found.date_ms is not None) + (flag is not None)
    if given != 1 or len(node.children) != 1:
        raise _malformed("Expiration has exactly one of Days, Date and ExpiredObjectDeleteMarker")
    return found


def _storage_class(node: xml.Node) -> str:
    name = node.required("StorageClass").strip()
    if name not in TRANSITION_CLASSES:
        raise _malformed(f"StorageClass must be one of {', '.join(TRANSITION_CLASSES)}")
    return name


def _transition(node: xml.Node) -> Transition:
    """# differs from AWS: no least number of days, which is a matter of billing."""
    found = Transition(_storage_class(node), _number(node, "Days", 0, "Transition action"), _date(node))
    if (found.days is None) == (found.date_ms is None) or len(node.children) != 2:
        raise _malformed("Transition has StorageClass and exactly one of Days and Date")
    return found


def _versions(node: xml.Node, what: str, low: int) -> tuple[int | None, int | None]:
    days = _number(node, "NoncurrentDays", low, what)
    return days, _number(node, "NewerNoncurrentVersions", 1, what, NEWER_VERSIONS_MAX)


def _noncurrent(node: xml.Node | None) -> Noncurrent | None:
    """# differs from AWS: NewerNoncurrentVersions without NoncurrentDays is taken, as MinIO's clients send it."""
    if node is None:
        return None
    days, newer = _versions(node, "NoncurrentVersionExpiration action", 1)
    if (days is None) + (newer is None) + len(node.children) != 2 or not node.children:
        raise _malformed("NoncurrentVersionExpiration has NoncurrentDays and perhaps NewerNoncurrentVersions")
    return Noncurrent(days, newer)


def _noncurrent_transition(node: xml.Node) -> Noncurrent:
    days, newer = _versions(node, "NoncurrentVersionTransition action", 0)
    if days is None or 2 + (newer is not None) != len(node.children):
        raise _malformed("NoncurrentVersionTransition has NoncurrentDays and StorageClass")
    return Noncurrent(days, newer, _storage_class(node))


def _abort_days(node: xml.Node | None) -> int | None:
    if node is None:
        return None
    days = _number(node, "DaysAfterInitiation", 1, "AbortIncompleteMultipartUpload action")
    if days is None or len(node.children) != 1:
        raise _malformed("AbortIncompleteMultipartUpload has DaysAfterInitiation")
    return days


def _check(rule: Rule) -> None:
    """What no element of a rule shows alone."""
    expiration, which = rule.expiration, rule.filter
    acts = (expiration, rule.noncurrent, rule.abort_days)
    if all(act is None for act in acts) and not rule.transitions and not rule.noncurrent_transitions:
        raise S3Error("InvalidRequest", "At least one action needs to be specified in a rule.")
    if rule.abort_days is not None and which.tags:
        raise S3Error("InvalidRequest", "AbortIncompleteMultipartUpload cannot be specified with Tags.")
    if rule.abort_days is not None and (which.larger is not None or which.smaller is not None):
        raise S3Error("InvalidRequest", "AbortIncompleteMultipartUpload cannot be specified with Object Size.")
    if expiration is not None and expiration.marker is not None and which.tags:
        raise S3Error("InvalidRequest", "ExpiredObjectDeleteMarker cannot be specified with Tags.")
    shown = f"(prefix={which.prefix or ''})"
    classes = [each.storage_class for each in rule.transitions]
    later = [each.storage_class for each in rule.noncurrent_transitions]
    if len(set(classes)) != len(classes) or len(set(later)) != len(later):
        raise S3Error("InvalidRequest", f"'StorageClass' must be different for the transitions of filter '{shown}'.")
    end = expiration if expiration is not None and expiration.marker is None else None
    dated = {each.days is None for each in rule.transitions}
    if end is not None:
        dated.add(end.days is None)
    if len(dated) > 1:
        raise S3Error(
            "InvalidRequest",
            f"Found mixed 'Date' and 'Days' based Expiration and Transition actions in lifecycle rule for filter '{shown}'",
        )
    for step in rule.transitions:
        if end is None:
            break
        if (end.days is not None and step.days is not None and end.days <= step.days) or (
            end.date_ms is not None and step.date_ms is not None and end.date_ms <= step.date_ms
        ):
            raise S3Error(
                "InvalidArgument",
                f"'{'Date' if end.days is None else 'Days'}' in the Expiration action for filter '{shown}' must be "
                "greater than that in the Transition action",
            )


def store(rules: Rules) -> str:
    """The text kept as the bucket's document."""
    return msgspec.json.encode(rules).decode()


@functools.lru_cache(maxsize=1024)  # one a bucket; read for every reply about an object in one that has rules
def load(text: str) -> Rules:
    """What `store` made the text of."""
    return msgspec.json.decode(text, type=Rules)


def render(rules: Rules) -> bytes:
    """The document as a reader of the configuration is given it."""
    writer = xml.XmlWriter("LifecycleConfiguration")
    for rule in rules.rules:
        with writer.nested("Rule"):
            writer.leaf("ID", rule.id)
            _render_filter(writer, rule.filter)
            writer.leaf("Status", "Enabled" if rule.enabled else "Disabled")
            for transition in rule.transitions:
                with writer.nested("Transition"):
                    _render_when(writer, transition.days, transition.date_ms)
                    writer.leaf("StorageClass", transition.storage_class)
            if rule.expiration is not None:
                with writer.nested("Expiration"):
                    _render_when(writer, rule.expiration.days, rule.expiration.date_ms)
                    writer.leaf("ExpiredObjectDeleteMarker", rule.expiration.marker)
            for each in (*rule.noncurrent_transitions, rule.noncurrent):
                if each is not None:
                    kind = "NoncurrentVersionTransition" if each.storage_class else "NoncurrentVersionExpiration"
                    with writer.nested(kind):
                        writer.leaf("NoncurrentDays", each.days)
                        writer.leaf("NewerNoncurrentVersions", each.newer)
                        writer.leaf("StorageClass", each.storage_class or None)
            if rule.abort_days is not None:
                with writer.nested("AbortIncompleteMultipartUpload"):
                    writer.leaf("DaysAfterInitiation", rule.abort_days)
    return writer.finish()


def _render_when(writer: xml.XmlWriter, days: int | None, date_ms: int | None) -> None:
    writer.leaf("Days", days)
    writer.leaf("Date", None if date_ms is None else iso_date(date_ms))


def _render_filter(writer: xml.XmlWriter, which: Filter) -> None:
    if which.legacy:
        writer.leaf("Prefix", which.prefix)
        return
    several = bool(which.prefix) + len(which.tags) + (which.larger is not None) + (which.smaller is not None) > 1
    with writer.nested("Filter"):
        if several:
            with writer.nested("And"):
                _render_predicates(writer, which)
        else:
            _render_predicates(writer, which)


def _render_predicates(writer: xml.XmlWriter, which: Filter) -> None:
    writer.leaf("Prefix", which.prefix)
    for key, value in which.tags:
        with writer.nested("Tag"):
            writer.leaf("Key", key)
            writer.leaf("Value", value)
    writer.leaf("ObjectSizeGreaterThan", which.larger)
    writer.leaf("ObjectSizeLessThan", which.smaller)


# -- what is due -------------------------------------------------------------------------------------------------


def later(at_ms: int, days: int, day_ms: int) -> int:
    """`days` after a moment, as AWS counts them: rounded up to midnight UTC, but for days of another length."""
    after_ms = at_ms + days * day_ms
    return -(-after_ms // DAY_MS) * DAY_MS if day_ms == DAY_MS else after_ms


def _matches(rule: Rule, key: str, info: ObjectInfo | None) -> bool:
    """Whether an enabled rule is about the object. A delete marker has neither size nor tags; None: an upload."""
    which = rule.filter
    if not rule.enabled or (which.prefix and not key.startswith(which.prefix)):
        return False
    sized = which.larger is not None or which.smaller is not None
    if not which.tags and not sized:
        return True
    if info is None or info.marker:
        return False
    size = content_bytes(info)
    if which.larger is not None and size <= which.larger:
        return False
    if which.smaller is not None and size >= which.smaller:
        return False
    return all(info.tags.get(name) == value for name, value in which.tags)


def _when(info: ObjectInfo, days: int | None, date_ms: int | None, day_ms: int) -> int | None:
    if days is not None:
        return later(info.modified_ms, days, day_ms)
    return date_ms


def _earliest(found: Iterator[Due]) -> Due | None:
    return min(found, default=None)


def expiration(rules: Rules, key: str, info: ObjectInfo, day_ms: int = DAY_MS) -> Due | None:
    """When the current version expires, and by which rule; None: never, or it is a marker or was replaced."""
    if info.marker or info.noncurrent_ms:
        return None
    return _earliest(_expirations(rules, key, info, day_ms))


def _expirations(rules: Rules, key: str, info: ObjectInfo, day_ms: int) -> Iterator[Due]:
    for rule in rules.rules:
        end = rule.expiration
        if end is None or end.marker is not None or not _matches(rule, key, info):
            continue
        at_ms = _when(info, end.days, end.date_ms, day_ms)
        if at_ms is not None:
            yield Due(at_ms, rule.id)


def abortion(rules: Rules, key: str, initiated_ms: int, day_ms: int = DAY_MS) -> Due | None:
    """When an upload under way is aborted, and by which rule."""
    return _earliest(
        Due(later(initiated_ms, rule.abort_days, day_ms), rule.id)
        for rule in rules.rules
        if rule.abort_days is not None and _matches(rule, key, None)
    )


def marker_due(rules: Rules, key: str, info: ObjectInfo, now_ms: int, day_ms: int = DAY_MS) -> bool:
    """Whether a delete marker with no version behind it goes: asked for, or old enough for an expiration (AWS does both)."""
    for rule in rules.rules:
        end = rule.expiration
        if end is None or not _matches(rule, key, info):
            continue
        if end.marker is not None:
            if end.marker:
                return True
            continue
        at_ms = _when(info, end.days, end.date_ms, day_ms)
        if at_ms is not None and at_ms <= now_ms:
            return True
    return False


def _noncurrent_is_due(each: Noncurrent, info: ObjectInfo, newer: int, now_ms: int, day_ms: int) -> bool:
    return newer >= (each.newer or 0) and later(info.noncurrent_ms, each.days or 0, day_ms) <= now_ms


def noncurrent_due(rules: Rules, key: str, info: ObjectInfo, newer: int, now_ms: int, day_ms: int = DAY_MS) -> bool:
    """Whether a version that was replaced goes. `newer`: noncurrent versions of the key younger than it."""
    return any(
        rule.noncurrent is not None
        and _matches(rule, key, info)
        and _noncurrent_is_due(rule.noncurrent, info, newer, now_ms, day_ms)
        for rule in rules.rules
    )


def _large_enough(rules: Rules, rule: Rule, storage_class: str, info: ObjectInfo) -> bool:
    if rule.filter.larger is not None or rule.filter.smaller is not None:
        return True
    if rules.minimum == "varies_by_storage_class" and storage_class in _ANY_SIZE:
        return True
    return content_bytes(info) >= SMALL_BYTES


def transition_due(rules: Rules, key: str, info: ObjectInfo, newer: int, now_ms: int, day_ms: int = DAY_MS) -> str:
    """The class a version moves to now, the coldest of those due; "" for none. `newer`: as for `noncurrent_due`."""
    found, rank = "", _RANK.get(info.storage_class, 0)
    if info.marker:
        return found
    for rule in rules.rules:
        if not (rule.transitions or rule.noncurrent_transitions) or not _matches(rule, key, info):
            continue
        for name in _due_classes(rule, info, newer, now_ms, day_ms):
            if _RANK[name] > rank and _large_enough(rules, rule, name, info):
                found, rank = name, _RANK[name]
    return found


def _due_classes(rule: Rule, info: ObjectInfo, newer: int, now_ms: int, day_ms: int) -> Iterator[str]:
    if info.noncurrent_ms:
        for each in rule.noncurrent_transitions:
            if _noncurrent_is_due(each, info, newer, now_ms, day_ms):
                yield each.storage_class
        return
    for step in rule.transitions:
        at_ms = _when(info, step.days, step.date_ms, day_ms)
        if at_ms is not None and at_ms <= now_ms:
            yield step.storage_class


def header_id(rule_id: str) -> str:
    """A rule's id as reply headers carry it."""
    return quote(rule_id, safe="-_.~")
