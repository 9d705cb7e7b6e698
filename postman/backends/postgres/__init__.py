"""A ledger and a queue in PostgreSQL, for any number of processes.

`server` is what a URL names, `checks` what it must be, `tables` what we have there. `connection` does not wait for
ever, `line` is a connection whose transactions are shared. The rows and lists of the ledger with its `tally`, and the
moves and looks of the queue, are what runs on a line.
"""
