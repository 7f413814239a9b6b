"""Signatures of requests to the backing bucket: AWS's worked example, and the same as the SDK's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import SplitResult

import pytest
from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3

from tiering.backing.signature import UNSIGNED, Signer

ACCESS, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_get_with_a_range_is_signed_as_in_the_reference() -> None:
    # AWS S3 API Reference, "Example: GET Object".
    at = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
    sent = Signer(ACCESS, SECRET, "us-east-1", lambda: at).sign(
        "GET", "/test.txt", "", {"host": "examplebucket.s3.amazonaws.com", "range": "bytes=0-9"}, EMPTY
    )
    assert sent["x-amz-date"] == "20130524T000000Z"
    assert sent["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


@pytest.mark.parametrize("query", ["", "uploads=", "partNumber=3&uploadId=a%2Fb%2B"])
@pytest.mark.parametrize("payload", [UNSIGNED, EMPTY])
def test_signatures_are_the_sdks_also_on_the_next_day(query: str, payload: str) -> None:
    at = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
    now = [at]
    signer = Signer(ACCESS, SECRET, "eu-west-3", lambda: now[0].timestamp())
    for step in (timedelta(0), timedelta(seconds=1), timedelta(days=400)):
        now[0] = at + step
        headers = {"host": "s3:9000", "range": "bytes=5-"}
        path = "/b/pre%20fix/%C3%A9~x"
        sent = signer.sign("PUT", path, query, headers, payload)
        theirs = sign_v4_s3(
            method="PUT",
            url=SplitResult("http", "s3:9000", path, query, ""),
            region="eu-west-3",
            headers={name: text for name, text in sent.items() if name != "authorization"},
            credentials=Credentials(ACCESS, SECRET),
            content_sha256=payload,
            date=now[0],
        )
        assert sent["authorization"] == theirs["Authorization"]
