"""What the lists of the ledger cost the server."""

from __future__ import annotations

import itertools

from postman.backends.columns import NUMBERS
from postman.backends.postgres.ledger_lists import PostgresLists
from postman.backends.postgres.server import Server
from postman.ledger import Filter
from postman.mail import Address
from postman.row import State
from postman.testing.letters import a_letter
from postman.testing.postgres_server import PostgresServer
from postman.testing.postgres_stores import opened

MANY, FEW = 2_000, 20
PASSED = (
    "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'letter' AND schemaname = %s"
)


async def test_a_list_passes_few_letters_however_many_there_are(
    postgres: Server, postgres_process: PostgresServer
) -> None:
    async with opened(postgres) as (ledger, _):
        few = [a_letter(number, tags=("rare",)) for number in range(1, FEW + 1)]
        await ledger.accept(few, "shop", None, b"")
        to = (Address(email=f"reader{number}@example.org") for number in itertools.count())
        many = [a_letter(number, to=(next(to),)) for number in range(FEW + 1, MANY)]
        await ledger.accept(many, "news", None, b"")
        letter, held, sent = f"{postgres.schema}.letter", NUMBERS[State.HELD], NUMBERS[State.SENT]
        postgres_process.execute(f"UPDATE {letter} SET state = CASE client WHEN 'shop' THEN {held} ELSE {sent} END")  # noqa: S608  # ours
        postgres_process.execute(f"VACUUM ANALYZE {letter}, {postgres.schema}.label")
    for filter, there in (
        (Filter(), True),
        (Filter(client="shop"), True),
        (Filter(client="nobody"), False),
        (Filter(state=State.HELD), True),
        (Filter(state=State.QUEUED), False),
        (Filter(client="shop", state=State.SENT), False),
        (Filter(client="news", state=State.HELD), False),
        (Filter(recipient="ann@example.org"), True),
        (Filter(recipient="ann@example.org", client="news"), False),
        (Filter(tag="rare", client="shop", state=State.HELD), True),
        (Filter(tag="rare", recipient="reader7@example.org"), False),
    ):
        with postgres.connect() as connection, connection.transaction():
            found = PostgresLists(None).find(filter, None, 10, connection)
            [(passed,)] = connection.execute(PASSED, [postgres.schema]).fetchall()
        assert (bool(found), passed <= 3 * FEW) == (there, True), (filter, passed)
