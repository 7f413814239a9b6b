"""The answers to S3's operations, by AWS name: what `s3api.operations` names and `s3api.pipeline` calls.

A handler takes an authenticated, authorised `Call` and returns a `Response`, or a coroutine where it must wait; it
raises S3Error or StoreError and never renders one, but for the keys of DeleteObjects.

Owns the mapping. Kind: table. Invariant, asserted in the tests: it has exactly the operations the table serves.
Spec: AWS S3 API Reference; docs/S3.md.
"""

from __future__ import annotations

from typing import Final

from s3api.call import Handler
from s3api.handlers import (
    acls,
    archive,
    attributes,
    batch,
    buckets,
    context_memory,
    copy,
    forms,
    lifecycle,
    listing,
    lock,
    notification,
    objects,
    rename,
    settings,
    sts,
    tagging,
    uploads,
    versions,
)

HANDLERS: Final[dict[str, Handler]] = {
    "AbortMultipartUpload": uploads.abort_multipart_upload,
    "AssumeRole": sts.answer,
    "BatchDelete": batch.batch_delete,
    "BatchGet": batch.batch_get,
    "BatchLookup": batch.batch_lookup,
    "BatchPin": batch.batch_pin,
    "BatchPut": batch.batch_put,
    "BatchTouch": batch.batch_touch,
    "BatchUnpin": batch.batch_unpin,
    "ChangeObject": context_memory.change_object,
    "CompleteMultipartUpload": uploads.complete_multipart_upload,
    "CopyObject": copy.copy_object,
    "CreateBucket": buckets.create_bucket,
    "CreateMultipartUpload": uploads.create_multipart_upload,
    "DeleteBucket": buckets.delete_bucket,
    "DeleteBucketLifecycle": lifecycle.delete_bucket_lifecycle,
    "DeleteBucketPolicy": acls.delete_bucket_policy,
    "DeleteObject": objects.delete_object,
    "DeleteObjectTagging": tagging.delete_object_tagging,
    "DeleteObjects": objects.delete_objects,
    "GetBucketAcl": acls.get_bucket_acl,
    "GetBucketNotificationConfiguration": notification.get_bucket_notification_configuration,
    "GetBucketLifecycleConfiguration": lifecycle.get_bucket_lifecycle_configuration,
    "GetBucketLocation": buckets.get_bucket_location,
    "GetBucketVersioning": versions.get_bucket_versioning,
    "GetBucketPolicy": acls.get_bucket_policy,
    "GetBucketPolicyStatus": acls.get_bucket_policy_status,
    "GetObject": objects.get_object,
    "GetObjectAcl": acls.get_object_acl,
    "GetObjectAttributes": attributes.get_object_attributes,
    "GetObjectLegalHold": lock.get_object_legal_hold,
    "GetObjectLockConfiguration": lock.get_object_lock_configuration,
    "GetObjectRetention": lock.get_object_retention,
    "GetObjectTagging": tagging.get_object_tagging,
    "HeadBucket": buckets.head_bucket,
    "HeadObject": objects.head_object,
    "ListBuckets": buckets.list_buckets,
    "ListMultipartUploads": listing.list_multipart_uploads,
    "ListObjectVersions": versions.list_object_versions,
    "ListObjects": listing.list_objects,
    "ListObjectsV2": listing.list_objects_v2,
    "ListParts": uploads.list_parts,
    "PutBucketAcl": acls.put_bucket_acl,
    "PutBucketNotificationConfiguration": notification.put_bucket_notification_configuration,
    "PutBucketLifecycleConfiguration": lifecycle.put_bucket_lifecycle_configuration,
    "PutBucketVersioning": versions.put_bucket_versioning,
    "PostObject": forms.post_object,
    "PutBucketPolicy": acls.put_bucket_policy,
    "PutObject": objects.put_object,
    "PutObjectAcl": acls.put_object_acl,
    "PutObjectLegalHold": lock.put_object_legal_hold,
    "PutObjectLockConfiguration": lock.put_object_lock_configuration,
    "PutObjectRetention": lock.put_object_retention,
    "PutObjectTagging": tagging.put_object_tagging,
    "RenameObject": rename.rename_object,
    "RestoreObject": archive.restore_object,
    "UploadPart": uploads.upload_part,
    "UploadPartCopy": uploads.upload_part_copy,
    **settings.HANDLERS,
}
