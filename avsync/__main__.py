"""``python -m avsync`` is the ``avsync`` command."""

from avsync.cli import main

if __name__ == "__main__":
    main()
