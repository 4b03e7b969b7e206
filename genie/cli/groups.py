"""Groups of commands: one that lists when no verb is given."""

import click


class Listing(click.Group):
    """A group whose command ``list`` runs when no verb is given.

    `genie jobs --state failed` is `genie jobs list --state failed`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, with ``list`` put first where no verb stands."""
        if not ctx.resilient_parsing and _names_no_verb(args):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def _names_no_verb(args: list[str]) -> bool:
    return not args or (args[0].startswith("-") and args[0] != "--help")
