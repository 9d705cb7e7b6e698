from __future__ import annotations

from datetime import UTC, datetime

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as some

from postman.backends.sqs.signature import sign

NOW = datetime(2026, 11, 24, 23, 59, 59, tzinfo=UTC)


@given(
    some.text("ABCDEFabcdef0123456789/+", min_size=16, max_size=40),
    some.none() | some.text("abc123/=+", min_size=1, max_size=20),
    some.sampled_from(["eu-central-1", "cn-north-1"]),
    some.binary(max_size=200),
)
def test_signatures_are_those_of_botocore(secret: str, token: str | None, region: str, body: bytes) -> None:
    keys = ReadOnlyCredentials("AKIDEXAMPLE", secret, token)
    headers = {"Host": "sqs.example.com", "Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AmazonSQS.X"}
    request = AWSRequest("POST", "https://sqs.example.com/", headers=headers, data=body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "get_current_datetime", lambda: NOW)
        auth.SigV4Auth(keys, "sqs", region).add_auth(request)
    assert {**headers, **sign(keys, region, NOW, headers, body)} == dict(request.headers)
