"""Patterns with wildcards and variables, and the condition operators of the policy language.

Promise: a value is held against a pattern in linear time, whatever the wildcards. Owns nothing. Does not know documents,
principals or requests: the values of condition keys come through a callable. Kind: pure.
Invariants: a variable without a value fits nothing; a key that is not in the request fails every operator but those that
are negated, optional or about its absence.
Spec: AWS IAM User Guide, "IAM JSON policy elements: Condition operators", "Variables and tags", "Multivalued context keys".
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from s3api.errors import S3Error

Context = Callable[[str], Sequence[str] | None]
"""Values of a condition key by its name, lower case up to a slash; None where the request has none."""

_VARIABLE: Final = re.compile(r"\$\{([^{}]*)\}")


def malformed(message: str) -> S3Error:
    """400 MalformedPolicy, with the message AWS gives."""
    return S3Error("MalformedPolicy", message)


# --- patterns ---------------------------------------------------------------------------------------------------------


class _Variable:
    """`${key}` or `${key, 'default'}`."""

    __slots__ = ("default", "key")

    def __init__(self, text: str) -> None:
        key, comma, default = text.partition(",")
        self.key = key_name(key.strip())
        self.default = default.strip().strip("'") if comma else None

    def value(self, context: Context) -> str | None:
        found = context(self.key)
        return found[0] if found else self.default


_ANY: Final = object()
_ONE: Final = object()
_Item = str | _Variable | object


def _items(text: str, *, variables: bool, wildcards: bool) -> list[_Item]:
    """The text cut into literals, wildcards and variables. `${*}`, `${?}` and `${$}` are those characters themselves."""
    items: list[_Item] = []
    at = 0
    for match in _VARIABLE.finditer(text) if variables else ():
        items += _wild(text[at : match.start()], wildcards)
        inside = match.group(1)
        items.append(inside if inside in ("*", "?", "$") else _Variable(inside))
        at = match.end()
    items += _wild(text[at:], wildcards)
    return items


def _wild(text: str, wildcards: bool) -> Iterator[_Item]:
    if not wildcards:
        yield text
        return
    for piece in re.split(r"([*?])", text):
        if piece:
            yield _ANY if piece == "*" else _ONE if piece == "?" else piece


class _Run:
    """A stretch of a pattern between two stars: literals, each at its place, and single wildcards between them."""

    __slots__ = ("_literals", "chars")

    def __init__(self, literals: list[tuple[int, str]], chars: int) -> None:
        self._literals = literals
        self.chars = chars

    def match(self, text: str, at: int) -> bool:
        """Whether it stands in `text` at `at`, in the room it needs."""
        return at + self.chars <= len(text) and all(
            text.startswith(literal, at + place) for place, literal in self._literals
        )

    def search(self, text: str, at: int, stop: int) -> int:
        """Where its first occurrence in `text[at:stop]` ends; -1 where there is none."""
        if not self._literals:
            return at + self.chars if at + self.chars <= stop else -1
        if len(self._literals) == 1 and len(self._literals[0][1]) == self.chars:
            found = text.find(self._literals[0][1], at, stop)
            return found if found < 0 else found + self.chars
        return self._search_all(text, at, stop)

    def _search_all(self, text: str, at: int, stop: int) -> int:
        """Every place at once, a bit for each sign: one place after the other costs text times run where both repeat."""
        any_char = top = (1 << self.chars) - 1
        fits: dict[str, int] = {}
        for place, literal in self._literals:
            any_char &= ~(((1 << len(literal)) - 1) << place)
            for offset, char in enumerate(literal, start=place):
                fits[char] = fits.get(char, 0) | 1 << offset
        top ^= top >> 1
        begun = 0  # bit n: the n + 1 first signs fit the text up to here
        for index in range(at, stop):
            begun = (begun << 1 | 1) & (fits.get(text[index], 0) | any_char)
            if begun & top:
                return index + 1
        return -1


class _Glob:
    """A pattern with wildcards, matched in linear time: its runs are looked for from left to right.

    Not a regular expression: one with `.*` takes time that grows with the number of stars as an exponent, and to compile
    one for each run, at each request where the pattern has variables, costs more than the search.
    """

    __slots__ = ("_runs",)

    def __init__(self, items: Iterable[_Item]) -> None:
        self._runs: list[_Run] = []
        literals: list[tuple[int, str]] = []
        chars = 0
        for item in items:
            if item is _ANY:
                self._runs.append(_Run(literals, chars))
                literals, chars = [], 0
            elif item is _ONE:
                chars += 1
            else:
                assert isinstance(item, str)
                if (
                    literals and literals[-1][0] + len(literals[-1][1]) == chars
                ):  # two in a row: a variable's value beside a literal
                    place, before = literals.pop()
                    literals.append((place, before + item))
                elif item:
                    literals.append((chars, item))
                chars += len(item)
        self._runs.append(_Run(literals, chars))

    def match(self, text: str) -> bool:
        head, tail = self._runs[0], self._runs[-1]
        if not head.match(text, 0):
            return False
        if head is tail:
            return len(text) == head.chars
        at, stop = head.chars, len(text) - tail.chars
        if stop < at or not tail.match(text, stop):
            return False
        for run in self._runs[1:-1]:
            at = run.search(text, at, stop)
            if at < 0:
                return False
        return True


class Pattern:
    """One text of a policy that values are held against. `fold`: letter case does not count."""

    __slots__ = ("_fold", "_glob", "_items", "text")

    def __init__(self, text: str, *, variables: bool = False, wildcards: bool = True, fold: bool = False) -> None:
        self.text = text
        self._fold = fold
        self._items = _items(text.lower() if fold else text, variables=variables, wildcards=wildcards)
        has_variables = any(isinstance(item, _Variable) for item in self._items)
        self._glob = None if has_variables else _Glob(self._items)

    def match(self, value: str, context: Context) -> bool:
        """Whether the value fits; a variable without a value fits nothing."""
        glob = self._glob
        if glob is None:
            items: list[_Item] = []
            for item in self._items:
                if isinstance(item, _Variable):
                    found = item.value(context)
                    if found is None:
                        return False
                    items.append(found.lower() if self._fold else found)
                else:
                    items.append(item)
            glob = _Glob(items)
        return glob.match(value.lower() if self._fold else value)


def key_name(name: str) -> str:
    """A condition key as contexts know it: without letter case, but for the tag after a slash."""
    head, slash, tag = name.partition("/")
    return head.lower() + slash + tag


# --- conditions -------------------------------------------------------------------------------------------------------


class _Arn:
    """ARNs are compared field by field, so that a wildcard does not reach over a colon but in the last."""

    __slots__ = ("_fields",)

    def __init__(self, text: str, variables: bool) -> None:
        self._fields = [Pattern(field, variables=variables) for field in text.split(":", 5)]

    def match(self, value: str, context: Context) -> bool:
        fields = value.split(":", 5)
        return len(fields) == len(self._fields) and all(
            pattern.match(field, context) for pattern, field in zip(self._fields, fields, strict=True)
        )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _moment(text: str) -> float | None:
    """Unix seconds of an ISO 8601 date or of a number of seconds."""
    found = _number(text)
    if found is not None:
        return found
    try:
        parsed = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def read_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return None


def _binary(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


Test = Callable[[str, Context], bool]
"""Whether one value of the request fits one value of the policy."""


def _string_test(wildcards: bool, fold: bool) -> Callable[[str, bool], Test | None]:
    return lambda text, variables: Pattern(text, variables=variables, wildcards=wildcards, fold=fold).match


def _ordered_test(
    read: Callable[[str], float | None], holds: Callable[[float, float], bool]
) -> Callable[[str, bool], Test | None]:
    def make(text: str, variables: bool) -> Test | None:
        bound = read(text)
        if bound is None:
            return None

        def test(value: str, _: Context) -> bool:
            number = read(value)
            return number is not None and holds(number, bound)

        return test

    return make


def _bool_test(text: str, variables: bool) -> Test | None:
    wanted = text.lower()
    return (lambda value, _: value.lower() == wanted) if wanted in ("true", "false") else None


def _address_test(text: str, variables: bool) -> Test | None:
    network = read_network(text)
    if network is None:
        return None

    def test(value: str, _: Context) -> bool:
        address = _address(value)
        return address is not None and address.version == network.version and address in network

    return test


def _binary_test(text: str, variables: bool) -> Test | None:
    wanted = _binary(text)
    return None if wanted is None else lambda value, _: _binary(value) == wanted


def _arn_test(text: str, variables: bool) -> Test | None:
    return _Arn(text, variables).match


_ORDERS: Final[dict[str, Callable[[float, float], bool]]] = {
    "Equals": lambda value, bound: value == bound,
    "LessThan": lambda value, bound: value < bound,
    "LessThanEquals": lambda value, bound: value <= bound,
    "GreaterThan": lambda value, bound: value > bound,
    "GreaterThanEquals": lambda value, bound: value >= bound,
}

_OPERATORS: Final[dict[str, tuple[Callable[[str, bool], Test | None], bool]]] = {
    "stringequals": (_string_test(False, False), False),
    "stringnotequals": (_string_test(False, False), True),
    "stringequalsignorecase": (_string_test(False, True), False),
    "stringnotequalsignorecase": (_string_test(False, True), True),
    "stringlike": (_string_test(True, False), False),
    "stringnotlike": (_string_test(True, False), True),
    "bool": (_bool_test, False),
    "binaryequals": (_binary_test, False),
    "ipaddress": (_address_test, False),
    "notipaddress": (_address_test, True),
    "arnequals": (_arn_test, False),
    "arnlike": (_arn_test, False),
    "arnnotequals": (_arn_test, True),
    "arnnotlike": (_arn_test, True),
    "numericnotequals": (_ordered_test(_number, _ORDERS["Equals"]), True),
    "datenotequals": (_ordered_test(_moment, _ORDERS["Equals"]), True),
    **{f"numeric{name.lower()}": (_ordered_test(_number, holds), False) for name, holds in _ORDERS.items()},
    **{f"date{name.lower()}": (_ordered_test(_moment, holds), False) for name, holds in _ORDERS.items()},
}
"""By operator in lower case: what makes a test of a policy's value, and whether the operator is a negated one."""


class Condition:
    """One operator and one key with its values."""

    __slots__ = ("_if_exists", "_negated", "_null", "_quantifier", "_tests", "key", "limits", "values")

    def __init__(self, operator: str, key: str, values: Sequence[str], variables: bool) -> None:
        self.key = key_name(key)
        self.values = values
        quantifier, colon, name = operator.partition(":")
        if not colon:
            quantifier, name = "", operator
        name = name.lower()
        self._quantifier = quantifier.lower()
        self._if_exists = name.endswith("ifexists")
        name = name.removesuffix("ifexists")
        self._null = None
        self._tests: list[Test] = []
        self._negated = False
        known = _OPERATORS.get(name)
        if self._quantifier not in ("", "foranyvalue", "forallvalues") or (known is None and name != "null"):
            raise malformed(f"Invalid Condition type : {operator}")
        if known is None:
            if self._if_exists or len(values) != 1 or values[0].lower() not in ("true", "false"):
                raise malformed(f"Invalid value for condition operator {operator}")
            self._null = values[0].lower() == "true"
        else:
            make, self._negated = known
            for value in values:
                test = make(value, variables)
                if test is None:
                    raise malformed(f"Invalid value {value[:128]!r} for condition operator {operator}")
                self._tests.append(test)
        # Whether it can keep anybody out who lacks the key: what is negated or optional lets him in.
        self.limits = not (self._negated or self._if_exists or self._null is not None) and (
            self._quantifier != "forallvalues"
        )

    def holds(self, context: Context) -> bool:
        found = context(self.key)
        if self._null is not None:
            return (found is None) == self._null
        if found is None:
            if self._quantifier:
                return self._quantifier == "forallvalues" or self._if_exists
            return self._if_exists or self._negated
        fits = [any(test(value, context) for test in self._tests) is not self._negated for value in found]
        if self._quantifier == "forallvalues" or (self._negated and not self._quantifier):
            return all(fits)
        return any(fits)
