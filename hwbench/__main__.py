"""`python -m hwbench`: the same as the command `hwbench`."""

import sys

from hwbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
