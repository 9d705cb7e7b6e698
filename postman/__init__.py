r"""Postman: takes mails over HTTP and delivers each through one of several providers.

    POST /mail                                       worker    waits until a provider can be asked
       |                                                |      takes a note from the queue
    endpoint  bytes -> list[Mail]   (400 if wrong)   delivery  in the guard, for each provider of the postbox:
       |                                                |        claims the letter in the ledger before the first byte
    intake    Mail -> Letter (id)                       |        asks the provider, behind its breaker
       |      the ledger accepts    -- the truth        |        surely not accepted -> the next one
       |      the queue gets a note -- a wake-up        |        writes the end; then the note is done with
       v      202 with the tracking ids                 |
                           \                            |
                            +---->  ledger, queue  ->---+
                                          ^
                                        clerk  puts notes that are missing, ends what ran out, settles doubt, sweeps

The floors, from the street up; imports run downwards only:

- the command line: `cli`, and `commands/`: they run a service, ask one that runs, check what it is made of, or move its
  backlog
- the house: `service` puts all parts together, `office` answers for it with its `status`, `orders` are what signals ask
  of it, `reload` changes it under load, `fleet` and `stores` open and close what it is made of; `aws_lambda` puts the
  way out together, for an event (`sqs_event`); `removal` moves a `backlog` from one ledger to another
- the way in: `http/`, where `endpoint` reads and answers what `server` brings, and `intake` with `allowance`
- the way out: `sending/`, where a `worker` takes a note and its `delivery` asks a `carrier` that the `postbox` chose;
  `journal` is its line in the log
- between them: `clerk`; `roster` counts who delivers how much
- contracts: `ledger` (with `row`, `transitions`: what may happen to it, and `movable`), `queue`, `provider`, `kind` and
  `hookspecs` (what a plugin registers), `mail`, `config` (read by `table`), `errors`
- implementations: `backends/`, a folder for each engine; what queues have in common is `takers`, several as one are
  `shards`; providers are plugins, found by `registry` in a `distribution` or a `plugin_directory`
- `wire`: how a provider meets the network, by `connection`, `multipart` and `answer`
- libraries that know nothing of the house: `breaker`, `guard`, `flake`, `bucket`, `pulse`, `logs`, `lookups`; and what
  is known of `text`, an `address`, a `host`, a `secret`
- for tests: `testing/`, and `failpoint`

Two promises hold it together. A mail that was answered with 202 on a durable ledger is never lost silently: it ends, or
it is held for a person, with its reason in the ledger. And a mail is never handed to another provider while the first
one may have taken it.
"""
