"""How ledger and queue talk to Redis or Valkey: one pipelined connection each, renewed when it breaks.

wire.py is one stream, client.py renews it and runs scripts, address.py says where, checks.py what the server must be.
The parser is hiredis. Commands of all tasks go out together and answers are matched in order, so a cancelled task
cannot disturb another one: its answer is read and dropped.
"""

from importlib.util import find_spec

if find_spec("hiredis") is None:
    raise ImportError("the parser hiredis is not installed; run: pip install 'postman-mail[redis]'")
