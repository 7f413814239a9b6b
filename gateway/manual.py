"""The generated parts of the manual: tables made from the rows of settings, metrics, operations, errors and modules.

`make docs` writes them between their marker lines again; a test fails when they are stale.

Owns DIFFERENCES, the one short text an operation may have on how it departs from AWS. Does not know what other rows
mean. Kind: pure, but for reading the source's own first lines, and for `main`, which rewrites the files it is given.
Invariant: a difference belongs to an operation. Spec: docs/OPERATIONS.md, docs/S3.md, docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from gateway import metrics
from gateway.config import POOL_DEFAULTS, POOL_SETTINGS, SETTINGS, Known, format_value
from s3api.errors import ERRORS, STORE_ERRORS
from s3api.handlers.objects import DELETE_KEYS_MAX
from s3api.handlers.options import SINGLE_PUT_BYTES_MAX
from s3api.operations import BY_NAME, TABLE, Operation

DIFFERENCES: Final[Mapping[str, str]] = {
    "CreateBucket": "`x-recall-pool` chooses the pool. Without a location constraint the bucket is here, in any region; a "
    "gateway of `us-east-1` takes and shows any region.",
    "HeadBucket": "The reply has `x-recall-pool`.",
    "DeleteBucket": "Uploads under way are aborted with it; objects past their deadline do not keep it.",
    "ListObjects": "With `encoding-type=url` a space is `%20`, not `+`. A cold-only object is listed as `GLACIER_IR` unless "
    "it was stored with a class of its own.",
    "ListObjectsV2": "As ListObjects.",
    "DeleteObjects": f"Up to {DELETE_KEYS_MAX} keys, each with its own outcome; as AWS wants, with Content-MD5 or a checksum. `x-amz-bypass-governance-retention` may stand in any bucket.",
    "GetBucketPolicyStatus": "A bucket is public by its access list too, and has a status without a policy.",
    "PutBucketVersioning": "MFA delete and MinIO's exclusions are 501.",
    "GetObject": "The reply has `x-recall-tier`. A 5xx reply has no body.",
    "HeadObject": "As GetObject.",
    "PutObject": f"Up to {SINGLE_PUT_BYTES_MAX >> 30} GiB. The ETag is not an MD5 in a pool with `etag` = `opaque`. A storage class is "
    "kept and shown; a cold one moves the object out of the hot tier. An archive to unpack (`x-amz-meta-snowball-auto-extract`, "
    "MinIO's) is 501.",
    "PostObject": "Forms; also of a request that is itself signed. `x-amz-checksum-` fields need no condition, and an upload may be "
    "chunked if its policy bounds the length.",
    "CopyObject": "The copy keeps the source's ETag, the `-N` of a multipart source too. Pin and TTL are never inherited.",
    "PutObjectTagging": "The tags `recall:pin` and `recall:ttl` act; taking one away undoes it.",
    "DeleteObjectTagging": "Undoes what `recall:pin` and `recall:ttl` did.",
    "RestoreObject": "Any object can be held, whatever its class. When the reply comes, the recall is done: 202 if the object "
    "was cold or archived, 200 if it was readable. The tier changes nothing; queries of the content (SELECT) are 501.",
    "ChangeObject": "Not of AWS: changes pin, TTL and tier (docs/EXTENSIONS.md).",
    "CreateMultipartUpload": "The `x-recall-` headers given here are the object's; deadlines and leases start at completion.",
    "UploadPart": "A part with a checksum is taken under an upload that named no algorithm: it is verified, and its CRC64NVME "
    "is kept.",
    "UploadPartCopy": "Copies the bytes.",
    "CompleteMultipartUpload": "Repeating a completion that has won answers the object again, while it still is that object.",
    "GetBucketEncryption": "A bucket without a default says so: nothing is sealed here unasked.",
    "PutBucketEncryption": "`aws:kms:dsse` is 501.",
    "PutBucketLogging": "Whoever sets it may write there. Grantees by e-mail address are 501. The target may say it is in another region.",
    "PutBucketRequestPayment": "Other accounts must say that they pay, and nobody is charged.",
    "PutBucketTagging": "200, where AWS has 204: the SDK of MinIO for JavaScript takes nothing else.",
    "PutBucketAccelerateConfiguration": "Kept and shown: there is one endpoint.",
    "PutBucketAbac": "Only `Disabled`.",
    "GetPublicAccessBlock": "A new bucket has none.",
    "GetBucketOwnershipControls": "A new bucket has none, unless `x-amz-object-ownership` gave it some.",
    "DeleteBucketWebsite": "204: there is never one.",
    "DeleteBucketReplication": "204: there is never one.",
    "SelectObjectContent": "S3 Select, which AWS has closed to new customers.",
    "GetObjectTorrent": "AWS has ended it.",
    "WriteGetObjectResponse": "Of Object Lambda, which AWS has closed to new customers.",
    "CreateSession": "Of directory buckets, which there are none of: requests are signed one by one.",
}
"""By operation, for docs/S3.md. Constants come from the code that obeys them."""

assert DIFFERENCES.keys() <= BY_NAME.keys(), "a difference of no operation"


def settings_tables() -> str:
    """A heading and a table a section, then where the two default pools differ."""
    sections: dict[str, list[Known]] = {}
    for known in (*SETTINGS.values(), *POOL_SETTINGS.values()):
        sections.setdefault(known.row.section, []).append(known)
    lines: list[str] = []
    for section, rows in sections.items():
        lines += [
            f"### {section}",
            "",
            "| setting | value | default | meaning | why this default |",
            "|---|---|---|---|---|",
        ]
        lines += ["| " + " | ".join(_cells(known)) + " |" for known in rows]
        lines.append("")
    lines += ["Where the pools that are always there differ from these defaults:", ""]
    for name, fields in POOL_DEFAULTS.items():
        shown = [f"`{field}` = `{format_value(POOL_SETTINGS[field], value)}`" for field, value in fields.items()]
        lines.append(f"- `{name}`: {', '.join(shown) or 'nowhere'}")
    return "\n".join(lines)


def _cells(known: Known) -> tuple[str, ...]:
    default = format_value(known, known.default)
    texts = (
        f"`{known.path}`",
        f"`{known.row.form}`",
        f"`{default}`" if default else "none",
        known.row.help,
        known.row.reason or "-",
    )
    return tuple(text.replace("|", "\\|") for text in texts)


def operations_tables() -> str:
    """One table: each operation, how a request of it is answered, the right it needs, and how it departs from AWS."""
    lines = ["| operation | request | answer | access action | differs from AWS |", "|---|---|---|---|---|"]
    lines += [
        _line(row.name, _request(row), _answer(row), f"`{row.action}`", DIFFERENCES.get(row.name, "-")) for row in TABLE
    ]
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _request(row: Operation) -> str:
    """`PUT /BUCKET/KEY?partNumber&uploadId`, as the row is matched."""
    path = {"service": "/", "bucket": "/BUCKET", "object": "/BUCKET/KEY"}[row.scope]
    query = "&".join(f"{name}={row.values[name]}" if name in row.values else name for name in row.query)
    shown = f"`{row.method} {path}{'?' + query if query else ''}`"
    header = "x-amz-copy-source" if row.copy else row.header.decode()
    return f"{shown} with `{header}`" if header else shown


def _answer(row: Operation) -> str:
    if row.handler:
        return "served"
    if row.document:
        return f"200, an empty `{row.document}`: nothing of the kind can be configured"
    if row.unset:
        return f"{ERRORS[row.unset].status} {row.unset}: nothing of the kind can be configured"
    return "refused: 501 NotImplemented"


def errors_table() -> str:
    """Every code, with the fact of the store it stands for where there is one."""
    facts: dict[str, list[str]] = {}
    for kind, code in STORE_ERRORS.items():
        facts.setdefault(code, []).append(kind.__name__)
    lines = ["| code | status | Retry-After | store fact | message |", "|---|---|---|---|---|"]
    for row in ERRORS.values():
        store = ", ".join(f"`{name}`" for name in facts.get(row.code, ())) or "-"
        retry = f"{row.retry_s} s" if row.retry_s else "-"
        closes = " (closes the connection)" if row.close else ""
        lines.append(_line(f"`{row.code}`", str(row.status), retry, store, row.message + closes))
    return "\n".join(lines)


ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = ("gateway", "s3api", "tiering")


def modules_tables() -> str:
    """A table a package: each module and the first sentence of its docstring. Only where the source is: not installed."""
    lines: list[str] = []
    for package in PACKAGES:
        lines += [f"### {package}/", "", "| module | is |", "|---|---|"]
        for path in sorted((ROOT / package).rglob("*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text()))
            if docstring:
                first = " ".join(docstring.split("\n\n")[0].split())
                lines.append(_line(f"`{path.relative_to(ROOT / package)}`", first.replace("|", "\\|")))
        lines.append("")
    return "\n".join(lines).rstrip()


Blocks = Mapping[str, Callable[[], str]]
BLOCKS: Final[Blocks] = {"settings": settings_tables, "metrics": metrics.markdown}
DOCUMENTS: Final[Mapping[str, Blocks]] = {
    "ARCHITECTURE.md": {"modules": modules_tables},
    "OPERATIONS.md": BLOCKS,
    "S3.md": {"operations": operations_tables, "errors": errors_table},
}
"""The documents with generated blocks, by file name."""


def renewed(text: str, blocks: Blocks = BLOCKS) -> str:
    """The text with each block between `<!-- NAME -->` and `<!-- end of NAME -->` made again. Raises ValueError."""
    for name, make in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"the text must have one block {name}")
        text = pattern.sub(lambda match, make=make: f"{match[1]}\n{make()}\n\n{match[2]}", text)  # type: ignore[misc]
    return text


def main(*paths: str) -> None:
    """Rewrites the blocks of each file, which is known by its name."""
    for path in paths:
        file = Path(path)
        file.write_text(renewed(file.read_text(), DOCUMENTS[file.name]))


if __name__ == "__main__":
    main(*sys.argv[1:])
