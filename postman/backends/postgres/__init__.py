"""A ledger and a queue in PostgreSQL, for any number of processes.

`connection` does not wait for ever, `line` is a connection whose transactions are shared, `server` is what a URL names.
The ledger's rows and lists, and the moves of the queue, are what runs on a line.
"""
