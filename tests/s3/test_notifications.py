"""Notifications from a real gateway to a real webhook: healthy, refusing, slow, away; and over a kill of the gateway."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway, wait_for

ARN = "arn:minio:sqs::hook:webhook"


class Receiver:
    """A webhook on a port that stays its own. `status`, `delay_s`: how it answers; `stop` and `start` take it away."""

    def __init__(self) -> None:
        self.status = 200
        self.delay_s = 0.0
        self.taken: list[dict[str, Any]] = []
        self.tries = 0
        self.tokens: set[str] = set()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.tries += 1
                outer.tokens.add(self.headers.get("Authorization", ""))
                time.sleep(outer.delay_s)
                status = outer.status
                if status < 300:
                    outer.taken.append(body)
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass  # who asked has given up

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def events(self) -> list[str]:
        """Event name and key of each record, in the order they came."""
        records = [record for body in self.taken for record in body.get("Records", ())]
        return [f"{record['eventName']} {record['s3']['object']['key']}" for record in records]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


def settings(receiver: Receiver, **more: str) -> dict[str, str]:
    url = f"hook=http://127.0.0.1:{receiver.port}/events"
    return {"notify_webhooks": url, "notify_timeout_s": "0.5s", **more}


def watch(s3: Any, bucket: str, *events: str, **filters: str) -> None:
    configuration: dict[str, Any] = {"QueueArn": ARN, "Events": list(events)}
    if filters:
        rules = [{"Name": name, "Value": value} for name, value in filters.items()]
        configuration["Filter"] = {"Key": {"FilterRules": rules}}
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [configuration]}
    )


def once(events: list[str]) -> list[str]:
    """Without repetitions: delivery is at least once."""
    return list(dict.fromkeys(events))


def test_events_of_all_kinds_arrive_in_order(receiver: Receiver) -> None:
    more = settings(receiver, lifecycle_day_s="1s")
    with Gateway(settings=more, env={"RECALL_NOTIFY_TOKEN_HOOK": "s3cret"}) as gateway:
        s3 = gateway.boto3_client()
        s3.create_bucket(Bucket="watched")
        events = ("ObjectCreated", "ObjectRemoved", "ObjectTagging", "ObjectRestore", "ObjectRecall")
        watch(s3, "watched", *(f"s3:{event}:*" for event in events), "s3:LifecycleExpiration:*", prefix="in/")
        wait_for(lambda: receiver.taken, "the test event")
        assert receiver.taken[0]["Event"] == "s3:TestEvent" and receiver.taken[0]["Bucket"] == "watched"
        s3.put_object(Bucket="watched", Key="in/a b", Body=b"1234")
        s3.put_object(Bucket="watched", Key="out/a", Body=b"1")
        s3.copy_object(Bucket="watched", Key="in/c", CopySource="watched/in/a b")
        s3.put_object_tagging(Bucket="watched", Key="in/c", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
        s3.delete_object(Bucket="watched", Key="in/c")
        upload = s3.create_multipart_upload(Bucket="watched", Key="in/m")["UploadId"]
        part = s3.upload_part(Bucket="watched", Key="in/m", UploadId=upload, PartNumber=1, Body=b"5")
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        s3.complete_multipart_upload(Bucket="watched", Key="in/m", UploadId=upload, MultipartUpload=parts)
        rule = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": "in/m"}, "Expiration": {"Days": 1}}
        s3.put_bucket_lifecycle_configuration(Bucket="watched", LifecycleConfiguration={"Rules": [rule]})
        wait_for(lambda: "LifecycleExpiration:Delete in/m" in receiver.events(), "the expiration")
        assert once(receiver.events()) == [
            "ObjectCreated:Put in/a+b",
            "ObjectCreated:Copy in/c",
            "ObjectTagging:Put in/c",
            "ObjectRemoved:Delete in/c",
            "ObjectCreated:CompleteMultipartUpload in/m",
            "LifecycleExpiration:Delete in/m",
        ]
        assert receiver.tokens == {"Bearer s3cret"}
        (first,) = receiver.taken[1]["Records"]
        assert first["s3"]["object"]["size"] == 4
        assert first["requestParameters"]["sourceIPAddress"] == "127.0.0.1"
        assert first["s3"]["bucket"]["name"] == "watched"


def test_nothing_is_lost_while_the_webhook_refuses_or_is_slow_or_away(receiver: Receiver) -> None:
    with Gateway(settings=settings(receiver)) as gateway:
        s3 = gateway.boto3_client()
        s3.create_bucket(Bucket="watched")
        watch(s3, "watched", "s3:ObjectCreated:*")
        wait_for(lambda: receiver.taken, "the test event")
        expected = []
        receiver.status = 500
        for number in range(5):
            s3.put_object(Bucket="watched", Key=f"refused-{number}", Body=b"1")
            expected.append(f"ObjectCreated:Put refused-{number}")
        tries = receiver.tries
        wait_for(lambda: receiver.tries >= tries + 2, "a second try")
        receiver.status, receiver.delay_s = 200, 0.0
        wait_for(lambda: once(receiver.events()) == expected, "what was refused")
        receiver.delay_s = 1.0  # longer than the time-out: taken, but the gateway cannot know
        s3.put_object(Bucket="watched", Key="slow", Body=b"1")
        wait_for(lambda: "ObjectCreated:Put slow" in receiver.events(), "the slow one")
        receiver.delay_s = 0.0
        receiver.stop()
        for number in range(3):
            s3.put_object(Bucket="watched", Key=f"away-{number}", Body=b"1")
        expected += ["ObjectCreated:Put slow", *(f"ObjectCreated:Put away-{number}" for number in range(3))]
        time.sleep(1.0)
        receiver.start()
        wait_for(lambda: once(receiver.events()) == expected, "what came while it was away")


def test_nothing_is_lost_when_the_gateway_is_killed(receiver: Receiver, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    receiver.stop()
    with Gateway(data_dir=data_dir, settings=settings(receiver)) as gateway:
        s3 = gateway.boto3_client()
        s3.create_bucket(Bucket="watched")
        watch(s3, "watched", "s3:ObjectCreated:*")
        for number in range(20):
            s3.put_object(Bucket="watched", Key=f"k{number:02d}", Body=b"1")
        gateway.kill_all()
    receiver.start()
    with Gateway(data_dir=data_dir, settings=settings(receiver)) as gateway:
        expected = [f"ObjectCreated:Put k{number:02d}" for number in range(20)]
        wait_for(lambda: once(receiver.events()) == expected, "what was recorded before the kill")


def test_unknown_destination_is_refused(receiver: Receiver) -> None:
    with Gateway(settings=settings(receiver)) as gateway:
        s3 = gateway.boto3_client()
        s3.create_bucket(Bucket="watched")
        configuration = {
            "TopicConfigurations": [{"TopicArn": "arn:aws:sns:us-east-1:1:none", "Events": ["s3:ObjectCreated:*"]}]
        }
        with pytest.raises(s3.exceptions.ClientError, match="Unable to validate the following destination"):
            s3.put_bucket_notification_configuration(Bucket="watched", NotificationConfiguration=configuration)
        watch(s3, "watched", "s3:ObjectCreated:*")
        (found,) = s3.get_bucket_notification_configuration(Bucket="watched")["QueueConfigurations"]
        assert (found["QueueArn"], found["Events"]) == (ARN, ["s3:ObjectCreated:*"])
