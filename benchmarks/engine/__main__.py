"""`python -m benchmarks.engine`."""

from benchmarks.engine.cli import main

if __name__ == "__main__":
    main()
