"""A queue in Amazon SQS, or in what speaks its protocol, for any number of processes.

`address` is what a URL names, `credentials` finds the account's keys with botocore, `signature` signs with them,
`client` asks and says what an error means. `channel` is one queue of SQS, whose calls carry up to ten entries each,
gathered by `batches`; the queue is made of one channel, or of one for each lane.
"""

from importlib.util import find_spec

if find_spec("botocore") is None:
    raise ImportError("botocore, which finds AWS credentials, is not installed; run: pip install 'postman-mail[sqs]'")
