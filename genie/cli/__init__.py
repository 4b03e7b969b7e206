"""The ``genie`` command. `genie.cli.root` has the commands and the exit codes."""


def main() -> None:
    """Run the command of this process's arguments; ends the process."""
    from genie.cli.root import genie

    genie()
