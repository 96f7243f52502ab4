"""`python -m numtx` is the command `numtx`."""

import sys

from numtx.cli import main

if __name__ == "__main__":
    sys.exit(main())
