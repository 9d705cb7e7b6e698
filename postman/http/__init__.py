"""The way in: from the first byte of a request to a list of mails, and the answer; and who may ask what."""
