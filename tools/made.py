"""Which files are made, and what is in them."""

from __future__ import annotations

from click.shell_completion import ShellComplete

from replicad.cli.completion import SHELLS, VARIABLE
from replicad.cli.main import group

from .manual import CHECKOUT, command_page, configuration_page

SHARE = CHECKOUT / "share"
"""What the wheel installs below the prefix's own share/."""
COMPLETIONS = {
    "bash": "bash-completion/completions/replicad",
    "zsh": "zsh/site-functions/_replicad",
    "fish": "fish/vendor_completions.d/replicad.fish",
}


def made() -> dict[str, str]:
    """The text of each file, by its path below `SHARE`."""
    pages = {"man/man1/replicad.1": command_page(), "man/man5/replicad.yaml.5": configuration_page()}
    return pages | {path: _completion(SHELLS[shell]) for shell, path in COMPLETIONS.items()}


def _completion(shell: type[ShellComplete]) -> str:
    # Not through `source`, which asks a bash for its version.
    complete = shell(group, {}, "replicad", VARIABLE)
    return (complete.source_template % complete.source_vars()).strip() + "\n"
