"""``python -m crossdna``."""

import sys

from crossdna.cli import main

if __name__ == "__main__":
    sys.exit(main())
