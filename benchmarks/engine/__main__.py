"""`python -m benchmarks.engine`."""

import signal
import sys

from benchmarks.engine.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that a running engine is ended too
    main()
