from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postman.backends.redis.address import Address as RedisAddress
from postman.backends.sqs.address import Address
from postman.testing.customer import open_customer
from postman.testing.program import open_program
from postman.testing.redis_server import RedisServer
from postman.testing.sqs_server import REGION, SqsServer

TOML = """\
[http]
bind = "127.0.0.1:0"
[ledger]
url = "{ledger}"
[queue]
url = "{queue}"
visibility-timeout = 2
[delivery]
workers = 8
on-doubt = "resend"
resend-after = 0
[[provider]]
name = "one"
plugin = "fake"
settings = {{ file = "taken" }}
"""


def mails(count: int, first: int, priority: str) -> list[dict[str, Any]]:
    return [
        {
            "to": [{"email": "ann@example.com"}],
            "from": {"email": "shop@example.org"},
            "subject": str(number),
            "content": [{"type": "text/plain", "value": "x"}],
            "priority": priority,
        }
        for number in range(first, first + count)
    ]


@pytest.fixture
def ledger(redis: RedisAddress, redis_process: RedisServer) -> str:
    return f"{redis_process.url}?prefix={redis.prefix.strip('{}:')}"


async def test_all_lanes_are_delivered_and_what_a_stop_left_is_delivered_after_it(
    tmp_path: Path, ledger: str, moto: SqsServer, make: Callable[..., Address]
) -> None:
    address = make(moto, 3)
    queue = f"sqs://{REGION}/{address.name}?lanes=3&endpoint={address.endpoint}"
    async with open_program(tmp_path, TOML.format(ledger=ledger, queue=queue)) as program:
        await program.start()
        async with open_customer(lambda: program.url) as customer:
            for number, priority in enumerate(("high", "normal", "bulk")):
                await customer.post(f"first-{priority}", mails(10, 10 * number, priority))
            assert await program.stop() == 0
            await program.start()
            await customer.post("second", mails(10, 30, "normal"))
            await customer.wait_settled()
            assert (await customer.get("/status"))["mails"]["sent"] == 40
        taken = {json.loads(line)["id"] for line in (tmp_path / "taken").read_text().splitlines()}
        assert taken == set(customer.ids)
        assert await program.stop() == 0


async def test_a_queue_that_is_not_there_ends_the_start_with_the_cure(
    tmp_path: Path, ledger: str, moto: SqsServer
) -> None:
    queue = f"sqs://{REGION}/nobody?endpoint={moto.endpoint}"
    async with open_program(tmp_path, TOML.format(ledger=ledger, queue=queue)) as program:
        await program.start()
        assert await program.wait_ended() == 2
        assert f"aws sqs create-queue --region {REGION} --queue-name nobody" in program.log
        assert "Traceback" not in program.log
