"""The application: how a command is registered, what it says, and how its errors end it.

Exit status: 0 done, 1 failed in use (a folder that is missing or not what the command needs is that too), 2 wrong
arguments, 130 ended by Ctrl-C, 143 by SIGTERM.
"""

import functools
import json
import sys
import traceback
from typing import Annotated

import typer

from .. import __version__
from ..process.stopping import GOES_ON, exit_status, termination_raises

app = typer.Typer(
    help="SegGen: captions become masks, masks become images, and a segmenter trained with them becomes better.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


class WrongArguments(ValueError):
    """What the user typed cannot be: exit status 2."""


def command(function):
    """`function` as a command: its errors become one line on stderr and an exit status."""

    @functools.wraps(function)
    def run(*args, debug: bool = False, **kwargs):
        try:
            with termination_raises():
                return function(*args, debug=debug, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt as stop:
            _fail(str(stop) or GOES_ON, exit_status(stop))
        except Exception as error:  # the one place where everything ends as a line
            if debug:
                traceback.print_exc()
            reason = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, (ValueError, OSError, FloatingPointError)):
                reason = f"{type(error).__name__}: {reason} (--debug shows where)"
            _fail(reason, 2 if isinstance(error, WrongArguments) else 1)

    return run


def register(function) -> None:
    """Have `seggen` know a command under its name."""
    app.command(name=function.__name__.replace("_", "-"))(function)


def _fail(reason: str, status: int) -> None:
    print(f"error: {reason}", file=sys.stderr)
    raise typer.Exit(status)


def say(line: str) -> None:
    print(f"== {line}", file=sys.stderr, flush=True)


def dumps(content) -> str:
    """JSON as commands print it, under a name that their option `json` does not hide."""
    return json.dumps(content, indent=2)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False):
    if version:
        print(__version__)
        raise typer.Exit()


def main() -> None:
    """Entry point of `seggen`."""
    app()
