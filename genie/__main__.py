"""``python -m genie``: the same as the ``genie`` command."""

from genie.cli import main

if __name__ == "__main__":
    main()
