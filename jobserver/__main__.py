"""`python -m jobserver` is the command `jobserver`."""

from jobserver.cli import main

if __name__ == "__main__":
    main()
