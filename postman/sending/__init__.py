"""The way out: which provider is asked for a letter, by whom, and what came of it."""
