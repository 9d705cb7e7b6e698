"""A ledger and a queue in one file, for one process. The default.

`file` is whose the file is and what its errors mean, `database` its one writer; `tables` are the ledger's rows.
"""
