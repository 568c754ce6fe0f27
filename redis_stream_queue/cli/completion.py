"""rsq completion: what makes a shell complete commands and options at TAB."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .output import say

COMMANDS = "rsq", "rsq-pool"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete rsq and rsq-pool at TAB.

    \b
      eval "$(rsq completion bash)"                  in ~/.bashrc
      eval "$(rsq completion zsh)"                   in ~/.zshrc
      rsq completion fish > ~/.config/fish/completions/rsq.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    for command in COMMANDS:
        variable = f"_{command.replace('-', '_').upper()}_COMPLETE"
        source = made(click.Command(command), {}, command, variable).source()
        say(*source.rstrip("\n").split("\n"))
