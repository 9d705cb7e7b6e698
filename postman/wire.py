"""."""


class ClientFactory:
    """To be written."""
