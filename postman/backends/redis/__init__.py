"""A ledger and a queue in Redis or Valkey, for any number of processes, each through one pipelined connection.

`wire` is one stream, `connection` renews it, `client` runs scripts; `address` says where, `checks` what a server must
be, `refusal` what its errors mean, `witness` whether it still has what it confirmed.

The parser is hiredis. Commands of all tasks go out together and answers are matched in order, so a cancelled task
cannot disturb another one: its answer is read and dropped.
"""

from importlib.util import find_spec

if find_spec("hiredis") is None:
    raise ImportError("the parser hiredis is not installed; run: pip install 'postman-mail[redis]'")
