"""The commands of the command line: `run` a service, `ask` one that runs, `check` what one is made of, `move` mails."""
