"""The command line: one module a verb, imported when the verb is used and not before.

A verb's module has a click command named `command`; what that returns is the exit code (None: 0). Results go to
stdout, and with `--json` nothing else does; everything said to a person goes to stderr.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module

import click

from replicad import __version__

# verb: (module, help). Help is kept here so that `replicad --help` imports no verb.
VERBS: dict[str, tuple[str, str]] = {
    "check-config": ("replicad.cli.check_config", "Say what is wrong in the configuration, or nothing."),
    "schema": ("replicad.cli.schema", "Print the JSON Schema of the configuration, for editors."),
    "inspect": ("replicad.cli.inspect", "Say what a virtual disk is, and whether it is damaged."),
    "probe": ("replicad.cli.probe", "Try everything that a share must do, and say what to do where it does not."),
    "run": ("replicad.cli.run", "Run the daemon in the foreground: all machines on their schedules."),
    "sync": ("replicad.cli.sync", "Run a cycle of replication now."),
    "pause": ("replicad.cli.pause", "Have the daemon begin no cycle of a virtual machine."),
    "resume": ("replicad.cli.resume", "Have it begin cycles again."),
    "acknowledge": ("replicad.cli.acknowledge", "Tell it that a warning about a tracker of changes has been seen."),
    "reload": ("replicad.cli.reload", "Have the daemon read its configuration again."),
    "status": ("replicad.cli.status", "Tell how each virtual machine's replication stands."),
    "dashboard": ("replicad.cli.dashboard", "Print where the dashboard is, for a browser to sign in."),
    "points": ("replicad.cli.points", "List recovery points."),
    "prune": ("replicad.cli.prune", "Remove the recovery points that no rule keeps."),
    "verify": ("replicad.cli.verify", "Read a replica back and compare it with its manifests."),
    "restore": ("replicad.cli.restore", "Write a point's disks somewhere else."),
    "move": ("replicad.cli.move.command", "Move a virtual machine's disks to another place while it runs."),
    "demo": ("replicad.cli.demo.command", "Show the whole story on this machine, with real SMB servers."),
}


class Verbs(click.Group):
    """A group that knows its commands by name and imports only the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = import_module(VERBS[cmd_name][0]).command
        if not isinstance(command, click.Command):
            raise TypeError(f"{VERBS[cmd_name][0]}.command is no click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verb = args[0] if args else ""
        if verb and not verb.startswith("-") and verb not in VERBS:
            close = get_close_matches(verb, VERBS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "'replicad --help' lists the verbs."
            ctx.fail(f"there is no verb '{verb}'; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]}, subcommand_metavar="VERB [ARGS]...")
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error ($REPLICAD_DEBUG=1).")
@click.version_option(__version__, prog_name="replicad", message="%(prog)s %(version)s")
@click.pass_context
def group(ctx: click.Context, debug: bool) -> None:
    """Keep replicas of virtual-machine disks on SMB 3 shares, with recovery points to go back to.

    Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 partly done or damage found; 5 try again later;
    10 not found; 11 locked by another; 12 sign-in or access refused; 130 interrupted.
    """
    ctx.obj["debug"] = debug


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Errors become sentences on stderr here and nowhere else.

    Without `arguments` the process is taken to be this command and nothing else: what it has imported is kept out of
    garbage collection.
    """
    flags = {"debug": False}
    if "_REPLICAD_COMPLETE" in os.environ:
        from . import completion  # noqa: F401 - what it does at its import is wanted, and only here
    is_whole_process = arguments is None
    if is_whole_process:
        _leave_no_memory_behind()
        gc.disable()  # `run_async` enables it: until then nothing is garbage, and looking for some takes 20 to 40 ms
    try:
        result = group.main(args=arguments, prog_name="replicad", standalone_mode=False, obj=flags)
        code = result if isinstance(result, int) else 0
    except BaseException as error:  # noqa: BLE001 - every way to end a command is told and turned into its exit code here
        from .failures import tell

        code = tell(error, debug=flags["debug"] or _debugging())
    if is_whole_process:
        gc.freeze()  # else the interpreter looks through everything once more at its end, for 50 ms
    return _flushed(code)


def _debugging() -> bool:
    return os.environ.get("REPLICAD_DEBUG", "") not in ("", "0")


def _leave_no_memory_behind() -> None:
    """No core file when the process crashes: its memory holds keys, passwords and pieces of disks."""
    if sys.platform != "win32" and not _debugging():
        import resource

        with suppress(
            ValueError, OSError
        ):  # a container may allow no change; it then says itself what becomes of cores
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _flushed(code: int) -> int:
    """The exit code once stdout has been delivered; quietly 1 if nobody reads it any more."""
    if sys.stdout is None:
        return code
    try:
        sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes once more at its end: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and not isinstance(error, BrokenPipeError):  # else what went wrong has been told already
            print(f"replicad: cannot write the output: {error.strerror}", file=sys.stderr)
        return code or 1
    return code
