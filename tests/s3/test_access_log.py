"""Server access logs on a real gateway, through boto3."""

from __future__ import annotations

from tests.support.gateway import Gateway, wait_for


def test_log_of_a_bucket_arrives_in_another() -> None:
    with Gateway(settings={"access_log_s": "0.2s"}, workers=2) as gateway:
        s3 = gateway.boto3_client()
        for name in ("source", "logs"):
            s3.create_bucket(Bucket=name)
        everyone = {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"}
        grants = [{"Grantee": everyone, "Permission": "READ"}]
        status = {"LoggingEnabled": {"TargetBucket": "logs", "TargetPrefix": "source/", "TargetGrants": grants}}
        s3.put_bucket_logging(Bucket="source", BucketLoggingStatus=status)
        s3.put_object(Bucket="source", Key="a b", Body=b"12345")
        s3.get_object(Bucket="source", Key="a b")["Body"].read()
        gone = [{"Key": "a b"}, {"Key": "k", "VersionId": "3HL4kqtJvjVBH40NrjfkdABCDEFGHIJK"}]
        s3.delete_objects(Bucket="source", Delete={"Objects": gone, "Quiet": True})
        try:
            s3.get_object(Bucket="source", Key="none")
        except s3.exceptions.NoSuchKey:
            pass

        def lines() -> list[str]:
            found = []
            for entry in s3.list_objects_v2(Bucket="logs", Prefix="source/").get("Contents", ()):
                found += s3.get_object(Bucket="logs", Key=entry["Key"])["Body"].read().decode().splitlines()
            return found

        wait_for(lambda: sum(".OBJECT " in line for line in lines()) == 5, "the log")
        (many,) = [line for line in lines() if " REST.POST.MULTI_OBJECT_DELETE - " in line]
        each = [line for line in lines() if " BATCH.DELETE.OBJECT " in line]
        assert [line.split()[6] for line in each] == [many.split()[6]] * 2
        assert ' BATCH.DELETE.OBJECT a%20b "-" 204 - - - ' in each[0]
        assert " BATCH.DELETE.OBJECT k " in each[1]
        by_operation = {line.partition("REST.")[2].partition(" ")[0]: line for line in lines() if " a%20b " in line}
        assert " 200 - - 5 " in by_operation["PUT.OBJECT"]
        assert " 200 - 5 5 " in by_operation["GET.OBJECT"]
        (missing,) = [line for line in lines() if " none " in line]
        assert " 404 NoSuchKey " in missing and " SigV4 - AuthHeader " in missing
        key = s3.list_objects_v2(Bucket="logs", MaxKeys=1)["Contents"][0]["Key"]
        listed = s3.get_object_acl(Bucket="logs", Key=key)["Grants"]
        assert sorted(grant["Permission"] for grant in listed) == ["FULL_CONTROL", "READ"]
        assert grants[0] in listed
