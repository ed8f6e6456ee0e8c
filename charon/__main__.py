"""``python -m charon``."""

import sys

from charon.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
