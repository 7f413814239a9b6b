"""The error table: whole, and complete over what a store may raise."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3api import errors
from s3api.errors import ERRORS, STORE_ERRORS, S3Error, from_store
from tiering import contract


def store_kinds() -> list[type[contract.StoreError]]:
    return [
        kind for kind in vars(contract).values() if isinstance(kind, type) and issubclass(kind, contract.StoreError)
    ]


@pytest.mark.parametrize("kind", [kind for kind in store_kinds() if kind is not contract.StoreError])
def test_every_store_error_has_a_code(kind: type[contract.StoreError]) -> None:
    assert kind in STORE_ERRORS
    assert from_store(kind()).spec.code == STORE_ERRORS[kind]


def test_every_code_is_written_somewhere() -> None:
    """A row that nothing raises says something of the gateway that is not so."""
    root = Path(errors.__file__).parents[1]
    sources = [path for package in ("s3api", "gateway") for path in (root / package).rglob("*.py")]
    text = "\n".join(line for path in sources for line in path.read_text().splitlines() if "ErrorSpec(" not in line)
    assert [code for code in ERRORS if f'"{code}"' not in text] == []


def test_rows_are_whole() -> None:
    for code, row in ERRORS.items():
        assert code == row.code
        assert row.status == 304 or 400 <= row.status <= 599
        assert row.message
        assert (row.status == 503) <= (row.retry_s > 0)


@pytest.mark.parametrize(
    ("error", "code", "status", "retry_s", "fields"),
    [
        (contract.Busy(retry_s=7), "SlowDown", 503, 7, {}),
        (contract.Busy(retry_s=0.2), "SlowDown", 503, 1, {}),
        (contract.ColdUnavailable(), "SlowDown", 503, 1, {}),
        (contract.TierFull(), "TierFullOfPins", 507, 0, {}),
        (contract.PinLimit(), "PinLimitExceeded", 507, 0, {}),
        (contract.DiskFull(), "DiskFull", 507, 0, {}),
        (contract.InvalidRange(size=10), "InvalidRange", 416, 0, {"ActualObjectSize": 10}),
        (contract.NoSuchKey(key="a/b"), "NoSuchKey", 404, 0, {"Key": "a/b"}),
        (contract.NoSuchBucket(bucket="b"), "NoSuchBucket", 404, 0, {"BucketName": "b"}),
        (contract.BucketNotEmpty(bucket="b"), "BucketNotEmpty", 409, 0, {"BucketName": "b"}),
        (contract.NoSuchUpload(upload_id="u"), "NoSuchUpload", 404, 0, {"UploadId": "u"}),
        (contract.InvalidPart(number=2, etag="e"), "InvalidPart", 400, 0, {"PartNumber": 2, "ETag": "e"}),
        (contract.PreconditionFailed(condition="If-Match"), "PreconditionFailed", 412, 0, {"Condition": "If-Match"}),
        (contract.PartTooSmall(number=1, size=5), "EntityTooSmall", 400, 0, {"MinSizeAllowed": 5 << 20, "ProposedSize": 5, "PartNumber": 1}),
        (contract.StoreError("?"), "InternalError", 500, 1, {}),
    ],
)  # fmt: skip
def test_store_fact_becomes_its_answer(
    error: contract.StoreError, code: str, status: int, retry_s: int, fields: dict[str, object]
) -> None:
    answer = from_store(error)
    assert (answer.spec.code, answer.spec.status, answer.retry_s, answer.fields) == (code, status, retry_s, fields)


def test_unsatisfiable_range_states_the_size() -> None:
    assert from_store(contract.InvalidRange(size=10)).headers == b"content-range: bytes */10\r\n"


def test_a_store_error_of_a_derived_kind_answers_as_its_parent() -> None:
    class Narrow(contract.Busy): ...

    assert from_store(Narrow(retry_s=2)).spec.code == "SlowDown"


def test_an_unknown_code_is_our_mistake() -> None:
    with pytest.raises(KeyError):
        S3Error("NoSuchCode")


def test_what_needed_the_backing_store_says_what_became_of_it() -> None:
    # Whatever it was, the client was told that the store does not answer.
    assert from_store(contract.ColdUnavailable("the object could not be made cold now")).message == (
        "The object could not be made cold now. Please try again."
    )
    assert (
        from_store(contract.ColdUnavailable("a part is missing", retry_s=5)).message
        == "A part is missing. Please try again."
    )
