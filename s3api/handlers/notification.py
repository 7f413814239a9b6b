"""Notification configuration of a bucket: put and get.

Owns nothing. Does not know how events are delivered (`gateway.notify`). Kind: shell (the loop).
Spec: AWS PutBucketNotificationConfiguration, GetBucketNotificationConfiguration.
"""

from __future__ import annotations

from s3api import notification, xml
from s3api.call import Call
from s3api.handlers.body import document
from s3api.message import Response
from s3api.params import boolean
from tiering.contract import BucketChange, Origin

DOCUMENT = "notification"
_SKIP = b"x-amz-skip-destination-validation"


async def put_bucket_notification_configuration(call: Call) -> Response:
    """Replaces the configuration; every webhook in it is sent a test event. An empty one turns notifications off.

    Whoever may set it may name any webhook, as in MinIO; in AWS the receiver has a policy of its own: `notify_owners` here.
    """
    owner = call.access.canonical_id(call.store.bucket(call.bucket).owner)
    config = call.config
    mine = [name for name in config.notify_targets if notification.is_for(name, owner, config.notify_owners)]
    skip = _SKIP in call.request.headers and boolean(_SKIP.decode(), call.header(_SKIP))
    # Nor may one be named unseen that is not for this bucket: the name is there already.
    others = frozenset(config.notify_owners) - frozenset(mine)
    notices = notification.parse(await document(call), mine, validate=not skip, refused=others)
    text = notification.store(notices) if notices.notices else None
    origin = Origin(notification.TEST_EVENT, call.identity.owner_id, call.request.peer, call.request_id)
    await call.store.change_bucket(call.bucket, BucketChange({DOCUMENT: text}, origin=origin))
    return Response(200)


def get_bucket_notification_configuration(call: Call) -> Response:
    """The configuration; an empty one where there is none."""
    text = call.store.bucket(call.bucket).documents.get(DOCUMENT)
    notices = notification.Notices() if text is None else notification.load(text)
    return Response(200, xml.CONTENT_TYPE, notification.render(notices))
