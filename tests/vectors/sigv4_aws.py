"""AWS's own worked examples of Signature Version 4 for S3, by name: requests as text, and the signatures they must have.

Kind: table. Source: Amazon S3 API Reference, "Examples: Signature Calculations", "Authenticating Requests: Using Query
Parameters", "Transferring Payload in Multiple Chunks", "Signature calculations … with trailing headers".
"""

from __future__ import annotations

import calendar
from typing import Final, NamedTuple

ACCESS_KEY: Final = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY: Final = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
NOW_S: Final = calendar.timegm((2013, 5, 24, 0, 0, 0))
EMPTY: Final = b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_CREDENTIAL: Final = b"AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"


class Example(NamedTuple):
    """A request whose authorization header is AWS's."""

    name: str
    method: str
    path: bytes
    query: bytes
    headers: dict[bytes, bytes]
    signature: str


def _example(
    name: str,
    method: str,
    path: bytes,
    query: bytes,
    headers: dict[bytes, bytes],
    signed: bytes,
    signature: str,
    spaced: bool = False,
) -> Example:
    comma = b", " if spaced else b","
    authorization = b"AWS4-HMAC-SHA256 Credential=" + _CREDENTIAL + comma + b"SignedHeaders=" + signed
    authorization += comma + b"Signature=" + signature.encode()
    base = {b"host": b"examplebucket.s3.amazonaws.com", b"x-amz-date": b"20130524T000000Z"}
    return Example(name, method, path, query, base | headers | {b"authorization": authorization}, signature)


GET_OBJECT: Final = _example(
    "get_object",
    "GET",
    b"/test.txt",
    b"",
    {b"range": b"bytes=0-9", b"x-amz-content-sha256": EMPTY},
    b"host;range;x-amz-content-sha256;x-amz-date",
    "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
)
PUT_OBJECT: Final = _example(
    "put_object",
    "PUT",
    b"/test$file.text",
    b"",
    {
        b"date": b"Fri, 24 May 2013 00:00:00 GMT",
        b"x-amz-storage-class": b"REDUCED_REDUNDANCY",
        b"x-amz-content-sha256": b"44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
    },
    b"date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
    "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
)
GET_LIFECYCLE: Final = _example(
    "get_bucket_lifecycle",
    "GET",
    b"/",
    b"lifecycle",
    {b"x-amz-content-sha256": EMPTY},
    b"host;x-amz-content-sha256;x-amz-date",
    "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    spaced=True,
)
LIST_OBJECTS: Final = _example(
    "list_objects",
    "GET",
    b"/",
    b"max-keys=2&prefix=J",
    {b"x-amz-content-sha256": EMPTY},
    b"host;x-amz-content-sha256;x-amz-date",
    "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    spaced=True,
)
CHUNKED: Final = _example(
    "chunked_upload",
    "PUT",
    b"/examplebucket/chunkObject.txt",
    b"",
    {
        b"host": b"s3.amazonaws.com",
        b"x-amz-storage-class": b"REDUCED_REDUNDANCY",
        b"x-amz-content-sha256": b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        b"content-encoding": b"aws-chunked",
        b"x-amz-decoded-content-length": b"66560",
        b"content-length": b"66824",
    },
    b"content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;"
    b"x-amz-storage-class",
    "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
)
CHUNKED_TRAILER: Final = _example(
    "chunked_upload_trailer",
    "PUT",
    b"/examplebucket/chunkObject.txt",
    b"",
    {
        b"host": b"s3.amazonaws.com",
        b"x-amz-storage-class": b"REDUCED_REDUNDANCY",
        b"x-amz-content-sha256": b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        b"content-encoding": b"aws-chunked",
        b"x-amz-decoded-content-length": b"66560",
        b"x-amz-trailer": b"x-amz-checksum-crc32c",
    },
    b"content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;"
    b"x-amz-trailer",
    "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
)
HEADER_EXAMPLES: Final = (GET_OBJECT, PUT_OBJECT, GET_LIFECYCLE, LIST_OBJECTS, CHUNKED, CHUNKED_TRAILER)

PRESIGNED_PATH: Final = b"/test.txt"
PRESIGNED_HEADERS: Final = {b"host": b"examplebucket.s3.amazonaws.com"}
PRESIGNED_QUERY: Final = (
    b"X-Amz-Algorithm=AWS4-HMAC-SHA256"
    b"&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
    b"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    b"&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
)

CHUNKS: Final = (b"a" * 65536, b"a" * 1024)
"""The example's content: 65 KiB of the letter a, in chunks of 64 KiB and 1 KiB."""
CHUNK_SIGNATURES: Final = (
    b"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    b"0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    b"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
)
TRAILER_CHUNK_SIGNATURES: Final = (
    b"b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
    b"1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
    b"2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
)
TRAILER_SIGNATURE: Final = b"d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"
TRAILER_VALUE: Final = b"sOO8/Q=="


def frames(signatures: tuple[bytes, ...], end: bytes) -> bytes:
    """The example's body: its chunks under `signatures`, then `end` after the last chunk's head."""
    out = b""
    for chunk, signature in zip((*CHUNKS, b""), signatures, strict=True):
        out += b"%x;chunk-signature=%b\r\n" % (len(chunk), signature)
        out += chunk + b"\r\n" if chunk else b""
    return out + end
