"""`python -m divergences`: see ``command.line``."""

import sys

from .command.line import main

if __name__ == "__main__":
    sys.exit(main())
