"""The command line: fit, predict, compare, atlas.

Exit status: 0 done; 2 bad usage or bad input, with one line on stderr; 3 a certificate does not hold under
``--strict``; 130 interrupted. Heavy imports wait until a command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from corollary.cli import atlas, compare, fit, predict, signals


class OneLine(TyperGroup):
    """A command group that turns every expected failure into one line on stderr and an exit status."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        """Run, and exit with the status that the command returned or its failure deserves."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        sys.exit(_status(lambda: super(OneLine, self).main(*args, standalone_mode=False, **kwargs)))


app = typer.Typer(
    cls=OneLine, name="corollary", no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _version(wanted: bool) -> bool:
    if wanted:
        import corollary

        print(f"corollary {corollary.__version__}")
        raise typer.Exit()
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Machine learning's numerical methods, each answer with a certificate that you can check.

    Exit status: 0 done, 2 bad usage or bad input, 3 a certificate does not hold (with --strict), 130 interrupted.
    """


for command in (fit.fit, predict.predict, compare.compare, atlas.atlas):
    app.command()(command)


def main() -> None:
    """The ``corollary`` script."""
    signals.install()
    app()


def _status(run: Any) -> int:
    try:
        status = int(run() or 0)
        if status == 130:  # how the command line's own loop tells of an interrupt
            raise KeyboardInterrupt
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return signals.status()
    except BrokenPipeError:  # the reader had enough: `corollary atlas | head`
        sys.stderr.close()
        return 0
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        if message:  # empty where no command was given: the help has been shown
            print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return 2


def _message(error: Exception) -> str | None:
    """The one line of an expected failure; None for a mistake of ours, which deserves its traceback."""
    if hasattr(error, "format_message"):  # the command line's own: unknown option, missing argument
        return str(error.format_message())  # type: ignore[attr-defined]
    if type(error).__name__ == "Abort":
        raise KeyboardInterrupt
    from corollary.core.errors import CorollaryError

    if isinstance(error, CorollaryError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory: {error}"
    return None
