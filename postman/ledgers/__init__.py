"""The ledgers of the core. Each is an entry point, imported only when postman.toml names it."""
