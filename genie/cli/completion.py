"""``genie completion``: prints the script with which a shell completes commands."""

import click
from click.shell_completion import (
    BashComplete,
    FishComplete,
    ShellComplete,
    ZshComplete,
)

VARIABLE = "_GENIE_COMPLETE"

BASH = r"""
%(complete_func)s() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}" word there="" type value
    word="${line##*[[:space:]]}"
    # bash ends words at colons: what comes before one is on the line already
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        there="${word%%"${word##*:}"}"
    fi
    COMPREPLY=()
    # the quotes make the last word of the line the one to complete, if it is empty too
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$there"}") ;;
        esac
    done < <(env COMP_WORDS="$line''" COMP_CWORD=-1 \
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class BashCompletion(BashComplete):
    """Bash completion for values with a colon in them, such as model names."""

    source_template = BASH


SHELLS: dict[str, type[ShellComplete]] = {
    "bash": BashCompletion,
    "zsh": ZshComplete,
    "fish": FishComplete,
}


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes `genie` in SHELL.

    \b
    bash  eval "$(genie completion bash)"   in ~/.bashrc
    zsh   eval "$(genie completion zsh)"    in ~/.zshrc, after compinit
    fish  genie completion fish > ~/.config/fish/completions/genie.fish

    Personas, models, jobs and schedules come from the cloud, within two seconds.
    """
    root = ctx.find_root()
    made = SHELLS[shell](root.command, {}, "genie", VARIABLE)
    click.echo(made.source().strip())
