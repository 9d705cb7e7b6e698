"""`python -m postman`."""

from __future__ import annotations

import sys

from postman.cli import main

if __name__ == "__main__":
    sys.exit(main())
