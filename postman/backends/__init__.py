"""Where mails are kept: a folder for each engine, with its ledger and its queue, and how they talk to the engine.

Each ledger and each queue is an entry point, imported only when postman.toml names it. No engine knows another one;
`rows` and `lanes` are what several of them share.
"""
