"""`python -m tokenworks` is the command `tokenworks`; the supervisor starts its children this way."""

from tokenworks.cli import main

if __name__ == "__main__":
    main()
