"""The command line, run in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from corollary.cli import app


def run(*words, status=0):
    """Run a command, check its exit status, and hand back what it printed."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "160"})
    if result.exit_code != status:
        raise AssertionError(
            f"exit {result.exit_code}, expected {status}\n{result.stderr}\n{result.stdout}"
        ) from result.exception
    return result


def refused(*words, match=()):
    """A refusal: status 2 and exactly one line on stderr, which holds every word of `match`."""
    result = run(*words, status=2)
    line = result.stderr.strip()
    assert line.startswith("error: "), line
    assert "\n" not in line, line
    for word in [match] if isinstance(match, str) else match:
        assert word in line, f"{word!r} not in {line!r}"
    assert "Traceback" not in result.output
    return line
