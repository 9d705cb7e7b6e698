"""A ledger and a queue in one file, for one process. The default.

`file` is whose the file is and what its errors mean, `database` its one writer, `log` what is written first;
`ledger_rows` caches the ledger's rows above the tables, `ledger_lists` is what people and the clerk ask.
"""
