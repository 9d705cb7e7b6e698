"""What a reload refuses; then everything goes on as it was."""

from __future__ import annotations

import pytest

from postman.reload import FIXED
from tests.reload.house import KEY, House, refused

EDITS = {
    "node": "node = 3",
    "[http], but for its keys": "[http]\nmax-batch = 11",
    "[ledger] url": '[ledger]\nurl = "memory:"\n[queue]\nurl = "sqlite:postman.db"',
    "[queue] url": '[queue]\nurl = "memory:"',
    "[queue] visibility-timeout": "[queue]\nvisibility-timeout = 61",
    "[delivery] workers": "[delivery]\nworkers = 65",
    "[delivery] max-in-flight-bytes": "[delivery]\nmax-in-flight-bytes = 1",
}


@pytest.mark.parametrize("name", FIXED)
async def test_what_needs_a_restart_is_refused_by_name_and_the_rest_of_the_file_with_it(
    house: House, name: str
) -> None:
    house.write("a", head=EDITS[name])
    assert await refused(house) == f"{name} changed, which needs a restart; nothing was changed"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[provider]", "postman.toml: not TOML"),
        ('[[provider]]\nname = "a"\nplugin = "ti', "postman.toml: not TOML"),
        ("", "there is no [[provider]]"),
        ('[[provider]]\nname = "a"\nplugin = "tiny"\nwieght = 1', 'unknown key "wieght"; did you mean "weight"?'),
        (
            '[[provider]]\nname = "a"\nplugin = "tiny"\nsettings = { key = { env = "NOBODY_SET_THIS" } }',
            "the environment variable NOBODY_SET_THIS is not set",
        ),
        ('[[provider]]\nname = "a"\nplugin = "tiny"\nsettings = { key = { file = "k" } }', "k cannot be read"),
        (
            f"{KEY}from = ['localhost']\n[[provider]]\nname = 'a'\nplugin = 'tiny'",
            '[[http.key]] #1 "shop": "from": [0] must be a domain in lower case',
        ),
    ],
)
async def test_a_mistake_in_the_file_is_told_and_changes_nothing(house: House, text: str, why: str) -> None:
    house.path.write_text(text)
    assert why in await refused(house)
    assert why in house.reloader.trouble
    house.write("a", "b")
    assert (await house.reloader.reload()).kept == ("a", "b")
    assert house.reloader.trouble == ""


async def test_a_file_that_is_gone_changes_nothing(house: House) -> None:
    house.path.unlink()
    assert "does not exist" in await refused(house)


async def test_a_bug_while_the_file_is_read_is_a_mistake_like_others(house: House) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    house.on_read = fail
    assert await refused(house) == "ZeroDivisionError: by zero; the log says more"


async def test_a_file_or_plugin_that_is_being_written_is_looked_at_twice(house: House) -> None:
    def finish_writing() -> None:
        if house.reads == 3:
            house.write("a", "b", "c")

    house.path.write_text('[[provider]]\nname = "a')
    house.on_read = finish_writing
    assert (await house.reloader.reload()).added == ("c",)
    assert house.reads == 3
