"""Groups of commands: one that lists when no verb is given."""

import click
from click.shell_completion import CompletionItem


class ListGroup(click.Group):
    """A group whose command ``list`` runs when no verb is given.

    `genie jobs --state failed` is `genie jobs list --state failed`.
    """

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """What follows the name in the usage: here the verb is optional."""
        return ["[OPTIONS]", "[COMMAND]", "[ARGS]..."]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, with ``list`` put first where no verb stands."""
        # a shell that completes the first word wants the verbs too
        is_first_word = ctx.resilient_parsing and not args
        if _names_no_verb(args) and not is_first_word:
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[CompletionItem]:
        """Verbs, and the options of ``list``."""
        found = super().shell_complete(ctx, incomplete)
        listing = self.get_command(ctx, "list")
        if listing is None or not incomplete.startswith("-"):
            return found
        sub = click.Context(listing, parent=ctx, info_name="list")
        known = {item.value for item in found}
        options = listing.shell_complete(sub, incomplete)
        return [*found, *(item for item in options if item.value not in known)]


def _names_no_verb(args: list[str]) -> bool:
    return not args or (args[0].startswith("-") and args[0] != "--help")
