"""`s3api.sigv4` against AWS's worked examples, its own signer, botocore's, and the forms in which a signature is wrong."""

from __future__ import annotations

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from s3api import sigv4
from s3api.errors import S3Error
from s3api.sigv4 import SigV4, presign, sign_headers
from tests.vectors import sigv4_aws as aws

SECRETS = {aws.ACCESS_KEY: aws.SECRET_KEY, "minio": "minio123"}
HOST = {b"host": b"127.0.0.1:9000"}


def verifier(**options: object) -> SigV4:
    return SigV4(SECRETS.get, **options)  # type: ignore[arg-type]


def signed(method: str = "GET", path: bytes = b"/b/k", query: bytes = b"", **more: object) -> dict[bytes, bytes]:
    options: dict[str, object] = {"access_key": "minio", "secret_key": "minio123", "now_s": aws.NOW_S, **more}
    headers = options.pop("headers", HOST)
    return sign_headers(method, path, query, headers, **options)  # type: ignore[arg-type]


def refusal(
    headers: dict[bytes, bytes], query: bytes = b"", now_s: int = aws.NOW_S, method: str = "GET", path: bytes = b"/b/k"
) -> S3Error:
    with pytest.raises(S3Error) as caught:
        verifier().verify(method, path, query, headers, now_s)
    assert "minio123" not in f"{caught.value} {caught.value.fields}"
    return caught.value


def code(headers: dict[bytes, bytes], query: bytes = b"", now_s: int = aws.NOW_S) -> str:
    return refusal(headers, query, now_s).spec.code


@pytest.mark.parametrize("example", aws.HEADER_EXAMPLES, ids=lambda example: example.name)
def test_aws_example_verifies(example: aws.Example) -> None:
    owner = verifier()
    for _ in range(2):  # the second time from memory
        verified = owner.verify(example.method, example.path, example.query, example.headers, aws.NOW_S)
        assert verified is not None
        assert verified.access_key == aws.ACCESS_KEY
        assert verified.signature.decode() == example.signature
        assert verified.payload == example.headers[b"x-amz-content-sha256"].decode()
        assert not verified.presigned


@pytest.mark.parametrize("example", aws.HEADER_EXAMPLES, ids=lambda example: example.name)
def test_aws_example_with_any_signed_part_changed_is_refused(example: aws.Example) -> None:
    changed = [
        ("POST", example.path, example.query, example.headers),
        (example.method, example.path + b"x", example.query, example.headers),
        (example.method, example.path, example.query + b"&x=1", example.headers),
        *(
            (example.method, example.path, example.query, example.headers | {name: value + b"1"})
            for name, value in example.headers.items()
            if name in example.headers[b"authorization"] and name not in (b"x-amz-date", b"x-amz-content-sha256")
        ),
    ]
    for method, path, query, headers in changed:
        with pytest.raises(S3Error) as caught:
            verifier().verify(method, path, query, headers, aws.NOW_S)
        assert caught.value.spec.code == "SignatureDoesNotMatch"


def test_aws_example_presigned_url() -> None:
    verified = verifier().verify("GET", aws.PRESIGNED_PATH, aws.PRESIGNED_QUERY, aws.PRESIGNED_HEADERS, aws.NOW_S)
    assert verified is not None
    assert verified.presigned
    assert verified.payload == "UNSIGNED-PAYLOAD"


def test_aws_example_presigned_url_is_what_presign_makes() -> None:
    query = presign(
        "GET",
        aws.PRESIGNED_PATH,
        b"",
        aws.PRESIGNED_HEADERS,
        access_key=aws.ACCESS_KEY,
        secret_key=aws.SECRET_KEY,
        now_s=aws.NOW_S,
        expires_s=86400,
    )
    assert query == aws.PRESIGNED_QUERY


def test_anonymous_request_is_none() -> None:
    assert verifier().verify("GET", b"/b/k", b"prefix=x&list-type=2", HOST, aws.NOW_S) is None


def test_changed_secret_is_seen_at_once() -> None:
    secrets = {"minio": "minio123"}
    owner = SigV4(secrets.get)
    headers = signed()
    assert owner.verify("GET", b"/b/k", b"", headers, aws.NOW_S)
    secrets["minio"] = "another"
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        owner.verify("GET", b"/b/k", b"", headers, aws.NOW_S)
    del secrets["minio"]
    with pytest.raises(S3Error, match="InvalidAccessKeyId"):
        owner.verify("GET", b"/b/k", b"", headers, aws.NOW_S)


@pytest.mark.parametrize("region", ["us-east-1", "", "eu-central-1", "auto", "garage"])
def test_any_region_is_accepted_as_sent(region: str) -> None:
    assert verifier().verify("GET", b"/b/k", b"", signed(region=region), aws.NOW_S)


def test_service_sts_only_where_asked_for() -> None:
    headers = signed(service="sts", payload=sigv4.EMPTY_SHA256)
    assert refusal(headers).spec.code == "AuthorizationHeaderMalformed"
    both = verifier(services=("s3", "sts"))
    assert both.verify("GET", b"/b/k", b"", headers, aws.NOW_S)
    del headers[b"x-amz-content-sha256"]
    headers[b"authorization"] = headers[b"authorization"].replace(b"x-amz-content-sha256;", b"")
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        both.verify("GET", b"/b/k", b"", headers, aws.NOW_S, body_sha256=sigv4.EMPTY_SHA256)
    with pytest.raises(S3Error, match="Missing required header"):
        both.verify("GET", b"/b/k", b"", headers, aws.NOW_S)


# Paths as clients send them, and as they sign them: (sent, signed form in the canonical request).
PATHS = [
    (b"/kvtest/model@tp0@a:b=c&d", b"/kvtest/model%40tp0%40a%3Ab%3Dc%26d"),
    (b"/b/model%40tp0", b"/b/model%40tp0"),
    (b"/b//lead//x", b"/b//lead//x"),
    (b"/b/a%2Fb", b"/b/a/b"),
    (b"/b/%7Euser/%2e%2E", b"/b/~user/.."),
    (b"/b/a+b%20c", b"/b/a%2Bb%20c"),
    ("/b/é".encode(), b"/b/%C3%A9"),
    (b"/b/%c3%a9", b"/b/%C3%A9"),
    (b"/b/%2525", b"/b/%2525"),
    (b"/b/", b"/b/"),
]


@pytest.mark.parametrize(("sent", "canonical"), PATHS)
def test_canonical_path_decodes_once_then_encodes(sent: bytes, canonical: bytes) -> None:
    assert sigv4.canonical_path(sent) == canonical
    assert verifier().verify("GET", sent, b"", signed(path=canonical), aws.NOW_S)


@given(st.binary(max_size=40))
def test_canonical_path_is_a_fixed_point_and_forgets_only_spelling(raw: bytes) -> None:
    spelled = b"/" + b"".join(b"%%%02x" % byte for byte in raw)
    canonical = sigv4.canonical_path(spelled)
    assert sigv4.canonical_path(canonical) == canonical
    assert sigv4.percent_decode(canonical) == b"/" + raw


@pytest.mark.parametrize(
    ("sent", "canonical"),
    [
        (b"uploads", b"uploads="),
        (b"b=2&a=1", b"a=1&b=2"),
        (b"a=2&a=1&a=", b"a=&a=1&a=2"),
        (b"prefix=a/b&delimiter=/", b"delimiter=%2F&prefix=a%2Fb"),
        (b"prefix=a%2fb", b"prefix=a%2Fb"),
        (b"prefix=a+b", b"prefix=a%20b"),
        (b"x=a=b", b"x=a%3Db"),
        (b"a&&b=", b"a=&b="),
        (b"a-b=1&a=2", b"a=2&a-b=1"),
        (b"%61=1", b"a=1"),
        (b"A=1&a=1&_=1", b"A=1&_=1&a=1"),
    ],
)
def test_canonical_query(sent: bytes, canonical: bytes) -> None:
    assert sigv4.canonical_query(sent) == canonical


@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6)), max_size=6))
def test_canonical_query_fast_and_slow_form_agree(pairs: list[tuple[bytes, bytes]]) -> None:
    pairs = [pair for pair in pairs if pair != (b"", b"")]
    coded = sigv4.encode_query(pairs)
    assert sigv4.canonical_query(coded) == coded
    assert sorted(sigv4.query_pairs(coded)) == sorted(pairs)


def test_header_values_are_trimmed_and_runs_of_spaces_folded() -> None:
    headers = signed(headers=HOST | {b"x-amz-meta-a": b"one two"})
    assert verifier().verify("GET", b"/b/k", b"", headers | {b"x-amz-meta-a": b"  one   two "}, aws.NOW_S)
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        verifier().verify("GET", b"/b/k", b"", headers | {b"x-amz-meta-a": b"onetwo"}, aws.NOW_S)


def test_botocore_headers_verify() -> None:
    """botocore is an independent signer: the same request, signed by it at the real time, must verify."""
    url = "http://127.0.0.1:9000/b/a%40b/%C3%A9?prefix=x%2Fy&uploads="
    request = AWSRequest("PUT", url, data=b"hello", headers={"x-amz-meta-a": "1  2", "Content-Type": "text/plain"})
    S3SigV4Auth(Credentials("minio", "minio123"), "s3", "eu-west-3").add_auth(request)
    headers = {name.lower().encode(): str(value).encode() for name, value in request.headers.items()}
    headers[b"host"] = b"127.0.0.1:9000"
    now_s = sigv4.parse_timestamp(headers[b"x-amz-date"])
    assert now_s is not None
    verified = verifier().verify("PUT", b"/b/a%40b/%C3%A9", b"prefix=x%2Fy&uploads=", headers, now_s)
    assert verified is not None


def test_botocore_presigned_url_verifies() -> None:
    request = AWSRequest("GET", "http://127.0.0.1:9000/b/a%40b?response-content-type=text%2Fplain")
    S3SigV4QueryAuth(Credentials("minio", "minio123"), "s3", "", expires=60).add_auth(request)
    query = request.url.partition("?")[2].encode()
    stamp = dict(sigv4.query_pairs(query))[b"X-Amz-Date"]
    now_s = sigv4.parse_timestamp(stamp)
    assert now_s is not None
    verified = verifier().verify("GET", b"/b/a%40b", query, HOST, now_s)
    assert verified is not None
    assert verified.presigned


def test_date_header_stands_in_for_x_amz_date() -> None:
    headers = signed()
    stamp = headers.pop(b"x-amz-date")
    auth = headers[b"authorization"]
    # Signed without x-amz-date: rebuild the signature over what is left.
    names = tuple(name for name in (b"host", b"x-amz-content-sha256"))
    scope = b"20130524/us-east-1/s3/aws4_request"
    canonical = sigv4.canonical_request("GET", b"/b/k", b"", headers, names, headers[b"x-amz-content-sha256"])
    key = sigv4.SigningKey("minio123", b"20130524", b"us-east-1", b"s3")
    signature = key.sign(sigv4._string_to_sign(stamp, scope, canonical)).encode()
    headers[b"authorization"] = (
        auth.split(b"SignedHeaders=")[0] + b"SignedHeaders=host;x-amz-content-sha256, Signature=" + signature
    )
    for date in (b"Fri, 24 May 2013 00:00:00 GMT", b"Fri, 24 May 2013 00:00:00 -0000", b"20130524T000000Z"):
        assert verifier().verify("GET", b"/b/k", b"", headers | {b"date": date}, aws.NOW_S)
    assert code(headers | {b"date": b"yesterday"}) == "AccessDenied"
    assert code(headers) == "AccessDenied"


@pytest.mark.parametrize("skew_s", [901, -901, 86400])
def test_skewed_clock_is_refused(skew_s: int) -> None:
    error = refusal(signed(), now_s=aws.NOW_S + skew_s)
    assert error.spec.code == "RequestTimeTooSkewed"
    assert error.fields["RequestTime"] == "20130524T000000Z"
    assert error.fields["MaxAllowedSkewMilliseconds"] == 900_000


@pytest.mark.parametrize("skew_s", [900, -900])
def test_skew_at_the_bound_is_accepted(skew_s: int) -> None:
    assert verifier().verify("GET", b"/b/k", b"", signed(), aws.NOW_S + skew_s)


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (b"AWS minio:abc=", "InvalidRequest"),
        (b"AWS4-ECDSA-P256-SHA256 Credential=x", "InvalidRequest"),
        (b"Bearer abc", "InvalidArgument"),
        (b"AWS4-HMAC-SHA256", "AuthorizationHeaderMalformed"),
        (b"AWS4-HMAC-SHA256 Credential=a/20130524/r/s3/aws4_request", "AuthorizationHeaderMalformed"),
        (b"AWS4-HMAC-SHA256 Credential=a/r/s3/aws4_request,SignedHeaders=host,Signature=0", "AuthorizationHeaderMalformed"),
        (b"AWS4-HMAC-SHA256 Credential=a/2013/r/s3/aws4_request,SignedHeaders=host,Signature=0", "AuthorizationHeaderMalformed"),
        (b"AWS4-HMAC-SHA256 Credential=a/20130524/r/s3/aws3,SignedHeaders=host,Signature=0", "AuthorizationHeaderMalformed"),
        (b"AWS4-HMAC-SHA256 Credential=minio/20130524/r/ec2/aws4_request,SignedHeaders=host,Signature=0", "AuthorizationHeaderMalformed"),
        (b"AWS4-HMAC-SHA256 Credential=minio/20130524/r/s3/aws4_request,SignedHeaders=x-amz-date,Signature=0", "AuthorizationHeaderMalformed"),
        (b"AWS4-HMAC-SHA256 Credential=minio/20130523/r/s3/aws4_request,SignedHeaders=host,Signature=0", "AuthorizationHeaderMalformed"),
        (b"AWS4-HMAC-SHA256 Credential=nobody/20130524/r/s3/aws4_request,SignedHeaders=host,Signature=0", "InvalidAccessKeyId"),
        (b"AWS4-HMAC-SHA256 Credential=minio/20130524/r/s3/aws4_request,SignedHeaders=host,Signature=0,Signature=1", "AuthorizationHeaderMalformed"),
        (b"AWS4-HMAC-SHA256 Credential=minio/20130524/r/s3/aws4_request,SignedHeaders=host,Extra=0", "AuthorizationHeaderMalformed"),
        (b"AWS4-HMAC-SHA256 Credential=minio/20130524/r/s3/aws4_request,SignedHeaders=host,Signature=\xff", "SignatureDoesNotMatch"),
    ],
)  # fmt: skip
def test_malformed_authorization(authorization: bytes, expected: str) -> None:
    base = {b"x-amz-date": b"20130524T000000Z", b"x-amz-content-sha256": aws.EMPTY} | HOST
    assert code(base | {b"authorization": authorization}) == expected


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        ("invalid_header", "Authorization header is invalid -- one and only one ' ' (space) required"),
        ("AWS2-HMAC-SHA1 Credential=a", "Unsupported Authorization Type"),
        ("Credential=a/20130524/r/s3/aws4_request,Signature=0", "the authorization header requires three components: Credential, SignedHeaders, and Signature."),
        ("Credential=a/20130524/r/s3/aws4_request,SignedHeaders-host,Signature=0", 'the authorization component "SignedHeaders-host" is malformed.'),
        ("other=a/20130524/r/s3/aws4_request,SignedHeaders=host,Signature=0", "missing Credential."),
        ("Credential=a/20130524/r/s3/aws4_request,other=host,Signature=0", "missing SignedHeaders."),
        ("Credential=a/20130524/r/s3/aws4_request,SignedHeaders=host,other=0", "missing Signature."),
        ("Credential=a/32234/r/s3/extra/things,SignedHeaders=host,Signature=0", 'the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".'),
        ("Credential=a/32234/r/s3/aws_request,SignedHeaders=host,Signature=0", 'incorrect terminal "aws_request". This endpoint uses "aws4_request".'),
        ("Credential=a/32234/r/ec2/aws4_request,SignedHeaders=host,Signature=0", 'incorrect service "ec2". This endpoint belongs to "s3".'),
        ("Credential=a/32234/r/s3/aws4_request,SignedHeaders=host,Signature=0", 'incorrect date format "32234". This date in the credential must be in the format "yyyyMMdd".'),
        ("Credential=minio/20130523/r/s3/aws4_request,SignedHeaders=host,Signature=0", 'Invalid credential date "20130523". This date is not the same as X-Amz-Date: "20130524".'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_authorization_is_said_as_aws_says_it(authorization: str, message: str) -> None:
    base = {b"x-amz-date": b"20130524T000000Z", b"x-amz-content-sha256": aws.EMPTY} | HOST
    bare = " " in message and message.startswith(("Auth", "Unsup"))
    sent = authorization if bare else f"AWS4-HMAC-SHA256 {authorization}"
    error = refusal(base | {b"authorization": sent.encode()})
    assert error.message == (message if bare else f"The authorization header is malformed; {message}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"AWS4-HMAC-SHA256", b"AWS4-SHA256", 'X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"'),
        (b"X-Amz-Expires=60", b"X-Amz-Expires=-3", "X-Amz-Expires must be non-negative"),
        (b"X-Amz-Expires=60", b"X-Amz-Expires=a", "X-Amz-Expires should be a number"),
        (b"X-Amz-Expires=60", b"X-Amz-Expires=604801", "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds"),
        (b"aws4_request", b"aws5_request", 'Error parsing the X-Amz-Credential parameter; incorrect terminal "aws5_request". This endpoint uses "aws4_request".'),
        (b"%2Fs3%2F", b"%2Fsns%2F", 'Error parsing the X-Amz-Credential parameter; incorrect service "sns". This endpoint belongs to "s3".'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_presigned_url_is_said_as_aws_says_it(old: bytes, new: bytes, message: str) -> None:
    assert refusal(HOST, presigned().replace(old, new)).message == message


def test_longest_url_lives_a_week_and_one_of_no_time_is_expired() -> None:
    query = presigned(expires_s=604_800)
    assert verifier().verify("GET", b"/b/k", query, HOST, aws.NOW_S + 604_799)
    assert refusal(HOST, presigned(expires_s=0)).message == "Request has expired"


def test_all_unsigned_headers_are_named() -> None:
    error = refusal(signed() | {b"x-amz-tagging": b"a=b", b"x-amz-copy-source": b"/b/k", b"x-custom": b"1"})
    assert error.fields["HeadersNotSigned"] == "x-amz-copy-source, x-amz-tagging"


def test_mismatch_shows_what_was_signed_in_bytes_too() -> None:
    error = refusal(signed(secret_key="wrong"))
    assert bytes.fromhex(error.fields["StringToSignBytes"]).decode() == error.fields["StringToSign"]
    assert bytes.fromhex(error.fields["CanonicalRequestBytes"]).decode() == error.fields["CanonicalRequest"]
    assert error.fields["SignatureProvided"]


def test_empty_authorization_header_is_no_signature() -> None:
    assert verifier().verify("GET", b"/b/k", b"", HOST | {b"authorization": b""}, aws.NOW_S) is None


def test_fields_of_authorization_in_any_order() -> None:
    headers = signed()
    algorithm, _, rest = headers[b"authorization"].partition(b" ")
    headers[b"authorization"] = algorithm + b" " + b",".join(reversed(rest.split(b", ")))
    for _ in range(2):
        assert verifier().verify("GET", b"/b/k", b"", headers, aws.NOW_S)


def test_unsigned_amz_header_is_refused_by_name() -> None:
    error = refusal(signed() | {b"x-amz-copy-source": b"/b/secret"})
    assert error.spec.code == "AccessDenied"
    assert error.fields["HeadersNotSigned"] == "x-amz-copy-source"


def test_unsigned_own_header_counts_on_a_header_signature_but_not_on_a_url() -> None:
    assert verifier().verify("GET", b"/b/k", b"", signed() | {b"x-recall-pin": b"true"}, aws.NOW_S)
    assert code(HOST | {b"x-recall-pin": b"true"}, presigned()) == "AccessDenied"


def test_session_token_without_a_session_is_refused() -> None:
    assert code(signed(headers=HOST | {b"x-amz-security-token": b"t"})) == "InvalidToken"
    assert code(HOST, presigned(query=b"X-Amz-Security-Token=t")) == "InvalidToken"


@pytest.mark.parametrize("value", [b"", b"abc", b"E3B0" + aws.EMPTY[4:], b"STREAMING-NONSENSE", b"\xff" * 64])
def test_content_sha256_of_no_known_form_is_refused(value: bytes) -> None:
    assert code(signed() | {b"x-amz-content-sha256": value}) == "InvalidArgument"


def test_missing_content_sha256_is_refused() -> None:
    headers = signed()
    del headers[b"x-amz-content-sha256"]
    assert code(headers) == "InvalidRequest"


def test_mismatch_shows_what_was_signed_but_no_secret() -> None:
    error = refusal(signed(secret_key="wrong"))
    assert error.spec.code == "SignatureDoesNotMatch"
    assert error.fields["CanonicalRequest"].startswith("GET\n/b/k\n\nhost:127.0.0.1:9000\n")
    assert error.fields["StringToSign"].startswith("AWS4-HMAC-SHA256\n20130524T000000Z\n")


# Presigned URLs.


def presigned(
    query: bytes = b"", headers: dict[bytes, bytes] = HOST, expires_s: int = 60, now_s: int = aws.NOW_S
) -> bytes:
    return presign(
        "GET", b"/b/k", query, headers, access_key="minio", secret_key="minio123", now_s=now_s, expires_s=expires_s
    )


@pytest.mark.parametrize("after_s", [0, 59, -900])
def test_presigned_url_within_its_time(after_s: int) -> None:
    assert verifier().verify("GET", b"/b/k", presigned(), HOST, aws.NOW_S + after_s)


@pytest.mark.parametrize(("after_s", "message"), [(60, "expired"), (86400, "expired"), (-901, "not valid yet")])
def test_presigned_url_outside_its_time(after_s: int, message: str) -> None:
    error = refusal(HOST, presigned(), aws.NOW_S + after_s)
    assert error.spec.code == "AccessDenied"
    assert message in error.message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"X-Amz-Expires=60", b"X-Amz-Expires=604801"),
        (b"X-Amz-Expires=60", b"X-Amz-Expires=-1"),
        (b"X-Amz-Expires=60", b"X-Amz-Expires=x"),
        (b"X-Amz-Expires=60", b"X-Amz-Expires="),
        (b"X-Amz-Expires=60", b"X-Amz-Expires=60&X-Amz-Expires=61"),
        (b"X-Amz-Expires=60&", b""),
        (b"X-Amz-Date=20130524T000000Z", b"X-Amz-Date=2013"),
        (b"X-Amz-Date=20130524T000000Z", b"X-Amz-Date=20130525T000000Z"),
        (b"X-Amz-Date=20130524T000000Z", b"X-Amz-Date=20131324T000000Z"),
        (b"AWS4-HMAC-SHA256", b"AWS4-HMAC-SHA1"),
        (b"SignedHeaders=host", b"SignedHeaders=x"),
        (b"%2Fs3%2F", b"%2Fsts%2F"),
        (b"aws4_request", b"aws5_request"),
    ],
)
def test_malformed_presigned_url(old: bytes, new: bytes) -> None:
    query = presigned()
    assert old in query
    assert code(HOST, query.replace(old, new)) == "AuthorizationQueryParametersError"


def test_presigned_url_with_another_parameter_is_refused() -> None:
    assert code(HOST, presigned() + b"&versionId=null") == "SignatureDoesNotMatch"


def test_presigned_url_with_a_header_signature_too_is_refused() -> None:
    assert code(signed(), presigned()) == "InvalidArgument"


def test_presigned_url_of_signature_version_2_is_not_one_of_version_4() -> None:
    assert verifier().verify("GET", b"/b/k", b"AWSAccessKeyId=minio&Signature=abc&Expires=1", HOST, aws.NOW_S) is None


def test_presigned_url_signs_its_headers_and_content_hash() -> None:
    headers = HOST | {b"x-amz-content-sha256": aws.EMPTY, b"x-amz-meta-a": b"1"}
    query = presigned(headers=headers)
    verified = verifier().verify("GET", b"/b/k", query, headers, aws.NOW_S)
    assert verified is not None
    assert verified.payload == aws.EMPTY.decode()
    assert code(headers | {b"x-amz-meta-a": b"2"}, query) == "SignatureDoesNotMatch"


def test_a_hash_may_be_added_to_a_presigned_url() -> None:
    """AWS takes x-amz-content-sha256 unsigned, and MinIO's suite of the SDK for Go has a wrong one refused as such."""
    query, name = presigned(), b"x-amz-content-sha256"
    for sent, payload in (
        (aws.EMPTY, aws.EMPTY.decode()),
        (b"UNSIGNED-PAYLOAD", "UNSIGNED-PAYLOAD"),
        (b"", "UNSIGNED-PAYLOAD"),
    ):
        verified = verifier().verify("GET", b"/b/k", query, HOST | ({name: sent} if sent else {}), aws.NOW_S)
        assert verified is not None
        assert verified.payload == payload
    assert code(HOST | {name: b"invalid-sha256"}, query) == "XAmzContentSHA256Mismatch"
    assert code(HOST | {name: b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"}, query) == "AccessDenied"
    assert code(HOST | {name: aws.EMPTY, b"x-amz-acl": b"private"}, query) == "AccessDenied"
    assert code(HOST | {name: aws.EMPTY}, query.replace(b"Signature=", b"Signature=0")) == "SignatureDoesNotMatch"
    # What the URL's maker said of the content stands.
    bound = presigned(headers=HOST | {name: aws.EMPTY})
    assert code(HOST | {name: b"0" * 64}, bound) == "SignatureDoesNotMatch"


def test_memory_is_bounded() -> None:
    owner = verifier()
    for number in range(sigv4._MEMORY_MAX + 10):
        assert owner.verify("GET", b"/b/k", b"", signed(region=f"r{number}"), aws.NOW_S)
    assert len(owner._keys) <= sigv4._MEMORY_MAX
    assert len(owner._credentials) <= sigv4._MEMORY_MAX


def test_refused_requests_leave_nothing_in_memory() -> None:
    owner = verifier()
    with pytest.raises(S3Error):
        owner.verify("GET", b"/b/k", b"", signed(secret_key="wrong"), aws.NOW_S)
    assert not owner._keys
    assert not owner._credentials
    assert not owner._times
