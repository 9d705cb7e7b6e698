"""A ledger and a queue that forget when the process ends: for trying out, and for tests."""
