"""Secrets that can be told from everything else, used rightly and wrongly at the highest log level; then looked for everywhere."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.exceptions

from tests.s3.test_notifications import Receiver, watch
from tests.support.gateway import Gateway, wait_for
from tests.support.s3server import S3Server

ROOT_SECRET = "RootSecretRootSecretRootSecret"
USER_SECRET = "UserSecretUserSecretUserSecret"
BACKING_SECRET = "BackingSecretBackingSecretBacking"
HOOK_TOKEN = "HookTokenHookTokenHookToken"
MASTER_KEY = base64.b64encode(b"MasterKeyMasterKeyMasterKeyMaste").decode()
CUSTOMER_KEY = b"CustomerKeyCustomerKeyCustomerKe"
WRONG_KEY = b"WrongKeyWrongKeyWrongKeyWrongKey"


class Answers:
    """What the gateway said no with: the whole text of every error."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def refused(self, call: Callable[..., Any], **arguments: Any) -> None:
        try:
            call(**arguments)
        except botocore.exceptions.ClientError as error:
            self.texts.append(f"{error} {error.response}")
        else:
            raise AssertionError(f"{arguments} was not refused")

    def fetched(self, url: str, **headers: str) -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as reply:
                reply.read()
                return int(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                self.texts.append(error.read().decode())
                return error.code


def customer(key: bytes) -> dict[str, Any]:
    return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}


def test_no_secret_is_told_to_anybody(backing_server: S3Server, tmp_path: Path) -> None:
    receiver = Receiver()
    answers = Answers()
    settings = {
        "log_level": "debug",
        "access_log_s": "0.2s",
        "metrics_auth": "jwt",
        "notify_webhooks": f"hook=http://127.0.0.1:{receiver.port}/events",
    }
    env = {
        **backing_server.env(),
        "RECALL_BACKING_SECRET_KEY": BACKING_SECRET,
        "RECALL_NOTIFY_TOKEN_HOOK": HOOK_TOKEN,
        "RECALL_KMS_SECRET_KEY": f"mine:{MASTER_KEY}",
    }
    with Gateway(
        data_dir=tmp_path / "data",
        backing=backing_server.url(backing_server.new_bucket()),
        settings=settings,
        env=env,
        credentials=("rootuser", ROOT_SECRET),
    ) as gateway:
        secrets = {
            "root": ROOT_SECRET,
            "user": USER_SECRET,
            "backing": BACKING_SECRET,
            "webhook": HOOK_TOKEN,
            "master key": MASTER_KEY,
            "customer key": CUSTOMER_KEY.decode(),
            "customer key, coded": base64.b64encode(CUSTOMER_KEY).decode(),
            "wrong customer key": base64.b64encode(WRONG_KEY).decode(),
        }
        done = gateway.command(
            "user", "add", "somebody", "--access-key", "SOMEBODY", env={"RECALL_USER_SECRET_KEY": USER_SECRET}
        )
        assert done.returncode == 0 and USER_SECRET not in done.stdout
        s3 = gateway.boto3_client()
        for name in ("logged", "logs"):
            s3.create_bucket(Bucket=name)
        s3.put_bucket_logging(
            Bucket="logged", BucketLoggingStatus={"LoggingEnabled": {"TargetBucket": "logs", "TargetPrefix": ""}}
        )
        watch(s3, "logged", "s3:ObjectCreated:*")

        # Encrypted in all ways, read with the right key and the wrong one; and copied to the backing store.
        s3.put_object(Bucket="logged", Key="customer", Body=b"1", **customer(CUSTOMER_KEY))
        s3.put_object(Bucket="logged", Key="managed", Body=b"2", ServerSideEncryption="aws:kms", SSEKMSKeyId="mine")
        assert s3.get_object(Bucket="logged", Key="customer", **customer(CUSTOMER_KEY))["Body"].read() == b"1"
        answers.refused(s3.get_object, Bucket="logged", Key="customer", **customer(WRONG_KEY))
        answers.refused(s3.get_object, Bucket="logged", Key="customer")
        answers.refused(s3.put_object, Bucket="logged", Key="k", ServerSideEncryption="aws:kms", SSEKMSKeyId="other")
        for key in ("customer", "managed"):
            assert gateway.command("evict", f"logged/{key}").returncode == 0
            s3.head_object(Bucket="logged", Key=key, **(customer(CUSTOMER_KEY) if key == "customer" else {}))

        # Other callers: a user without rights, wrong secrets, sessions good and bad.
        wait_for(
            lambda: gateway.boto3_client(keys=("SOMEBODY", USER_SECRET), service="sts").get_caller_identity(),
            "the user",
        )
        answers.refused(gateway.boto3_client(keys=("SOMEBODY", USER_SECRET)).list_objects_v2, Bucket="logged")
        answers.refused(gateway.boto3_client(keys=("SOMEBODY", ROOT_SECRET)).list_objects_v2, Bucket="logged")
        answers.refused(gateway.boto3_client(keys=("rootuser", "not the secret")).list_buckets)
        begun = gateway.boto3_client(service="sts").get_session_token()["Credentials"]
        keys, token = (begun["AccessKeyId"], begun["SecretAccessKey"]), begun["SessionToken"]
        secrets |= {"session secret": keys[1], "session token": token}
        session = gateway.boto3_client(keys=keys, token=token)
        session.put_object(Bucket="logged", Key="by-session", Body=b"3")
        answers.refused(session.get_object, Bucket="logged", Key="absent")
        answers.refused(gateway.boto3_client(keys=keys, token=token[:-4] + "AAAA").list_buckets)
        answers.refused(gateway.boto3_client(keys=(keys[0], "x" * 40), token=token).list_buckets)

        # Presigned URLs, with a session and without, also as where a browser came from.
        for number, client in enumerate((s3, session)):
            url = client.generate_presigned_url("get_object", Params={"Bucket": "logged", "Key": "by-session"})
            told = parse_qs(urlsplit(url).query)
            secrets[f"presigned {number}"] = (told.get("X-Amz-Signature") or told["Signature"])[0]
            assert answers.fetched(url) == 200
            assert answers.fetched(url.replace("by-session", "absent")) == 403
            assert answers.fetched(f"{gateway.endpoint}/logged/by-session", Referer=url) == 403

        # The operator's side.
        made = gateway.command("metrics-token").stdout.strip()
        secrets["metrics token"] = made.rpartition(".")[2]
        assert answers.fetched(f"{gateway.endpoint}/recall/metrics", Authorization=f"Bearer {made}") == 200
        assert answers.fetched(f"{gateway.endpoint}/recall/metrics", Authorization=f"Bearer {made[:-3]}AAA") == 401
        receiver.status = 500  # messages wait, and what goes wrong is logged
        s3.put_object(Bucket="logged", Key="last", Body=b"4")
        wait_for(lambda: "does not take events" in gateway.log, "the webhook's failure is logged")
        wait_for(lambda: list((gateway.data_dir / "notify/hook").glob("*.log")), "a message waits")

        def lines() -> str:
            entries = s3.list_objects_v2(Bucket="logs").get("Contents", ())
            return "".join(s3.get_object(Bucket="logs", Key=each["Key"])["Body"].read().decode() for each in entries)

        wait_for(lambda: " last " in lines(), "the access log")
        places = {"the log": gateway.log, "access logs": lines(), "errors": "\n".join(answers.texts)}
        places["stats"] = gateway.command("stats", "--json").stdout + gateway.command("user", "info", "somebody").stdout
        for name, pid in gateway.pids().items():
            places[f"arguments of {name}"] = Path(f"/proc/{pid}/cmdline").read_text()
            if name != "supervisor":  # whose environment is what it was given
                places[f"environment of {name}"] = Path(f"/proc/{pid}/environ").read_text()
        assert len(places) == 4 + 2 * len(gateway.pids()) - 1
        for name, text in secrets.items():
            assert len(text) > 12
            for place, said in places.items():
                if place == "errors" and name.startswith(("presigned", "session token")):
                    continue  # who sent a signature is told which it was, and of what
                assert text not in said, f"{name} is in {place}"
        # What only the gateway may read has what it must: a user's secret signs. Nothing else is anywhere.
        for path in gateway.data_dir.rglob("*"):
            if not path.is_file() or path.name == "identities.json":
                continue
            content = path.read_bytes()
            for name, text in secrets.items():
                assert text.encode() not in content, f"{name} is in {path.relative_to(gateway.data_dir)}"
        assert "Traceback" not in gateway.log
    receiver.stop()


def test_hash_of_the_customer_key_is_all_that_is_kept(tmp_path: Path) -> None:
    with Gateway(data_dir=tmp_path / "data") as gateway:
        s3 = gateway.boto3_client()
        s3.create_bucket(Bucket="bucket")
        reply = s3.put_object(Bucket="bucket", Key="k", Body=os.urandom(100), **customer(CUSTOMER_KEY))
        assert reply["SSECustomerKeyMD5"] == base64.b64encode(hashlib.md5(CUSTOMER_KEY).digest()).decode()
        assert not re.search(
            rb"CustomerKeyCustomerKey", (gateway.data_dir / "pools/standard/index/data.mdb").read_bytes()
        )
