"""The command `he-agg`, put together at run time from the entry points that the packages register.

An entry point in the group `he_agg.commands` is named after its command, words joined by dots (`site.add`), and
points at a Click command. Only the command that was asked for is loaded: `he-agg serve` never
loads keys or an HE library, and an installation without the server extra has no `serve`.

Exit codes are stable: `EXIT_CODES`.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from he_agg.errors import ConfigError, DecryptionError, HeAggError, KeystoreError, Reason, TransportError
from he_agg.host.files import file_trouble
from he_agg.siblings import check_siblings

__all__ = ["EXIT_CODES", "FILE", "GROUP", "Commands", "Whole", "answer", "exit_code", "json_option", "main", "messages"]

GROUP = "he_agg.commands"

EXIT_REFUSED = 1
EXIT_UNREACHABLE = 3
EXIT_FILES = 4
EXIT_UNVERIFIED = 5
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_CODES = {
    0: "done",
    EXIT_REFUSED: "refused, with a reason",
    2: "wrong usage",
    EXIT_UNREACHABLE: "the aggregator could not be reached",
    EXIT_FILES: "files or settings",
    EXIT_UNVERIFIED: "a sum did not verify or open",
    EXIT_INTERRUPTED: "interrupted",
    EXIT_TERMINATED: "terminated",
}

_GROUP_HELP = {
    "aggregator": "The aggregator's own key (operator).",
    "operator": "The operators' page (operator).",
    "federation": "Create, start and look at federations (operator).",
    "site": "Sites: making an identity, revoking one.",
    "holder": "Trustees: holding shares of split keys without being a site.",
    "roster": "Rosters: who belongs to a federation, with which keys.",
    "epoch": "Epochs: dealing and accepting group keys.",
    "keys": "Keystores and what sites hold.",
    "bench": "Benchmarks: rounds against plaintext, reports, comparisons.",
}

_EXTRAS = {
    "server": ("fastapi", "starlette", "uvicorn", "sqlalchemy", "pydantic", "pydantic_settings", "prometheus_client"),
    "otlp": ("opentelemetry",),
    "oidc": ("joserfc",),
    "postgres": ("psycopg",),
}
"""Which extra of he-agg brings a module that a command may lack."""

FILE = click.Path(path_type=Path, dir_okay=False)
"""The type of an argument that names a file."""


class Whole(click.IntRange):
    """The type of an option that is a whole number, with a sentence for what is none or out of range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            most = "" if self.max is None else f" to {self.max:,}"
            least = "" if self.min is None else f" from {self.min:,}" if most else f" of {self.min:,} at least"
            self.fail(f"expected a whole number{least}{most}, got {value}", param, ctx)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")

messages = Console(stderr=True, highlight=False)
"""For people: progress and errors go here, so that stdout holds data only."""


def answer(value: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print a command's result on stdout."""
    print(json.dumps(value, indent=2, sort_keys=True) if as_json else text())


class Commands(click.Group):
    """A group whose members are entry points below one dotted prefix."""

    def __init__(self, prefix: str, points: Sequence[EntryPoint], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._prefix = prefix
        self._points = {point.name: point for point in points}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return next words after the prefix, without those whose extra is not installed. Called for help only."""
        return [word for word in self._words() if self._loads(ctx, word)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - Click's name
        """Load one command, or make the group of those that share a first word."""
        full = self._prefix + cmd_name
        points = list(self._points.values())
        is_group = any(name.startswith(f"{full}.") for name in self._points)
        if full not in self._points:
            help_text = _GROUP_HELP.get(cmd_name)
            return (
                Commands(f"{full}.", points, name=cmd_name, help=help_text, no_args_is_help=True) if is_group else None
            )
        try:
            check_siblings(self._points[full].module.split(".")[0])
            command: click.Command = self._points[full].load()
        except ImportError as error:
            raise _missing_module(error) from error
        return _both(command, f"{full}.", points) if is_group else command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is typed; of one that does not exist, name one that is like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            below = [name[len(self._prefix) :] for name in self._points if name.startswith(self._prefix)]
            # What people mix up: the letters, the first word for the second, and a word for the whole command.
            like = {part: name for name in sorted(below, reverse=True) for part in (name, name.split(".")[-1])}
            like |= {name.split(".")[0]: name.split(".")[0] for name in below}
            near = get_close_matches(".".join(args[:2]), like, 1, 0.7) or get_close_matches(args[0], like, 1, 0.6)
            if near:
                typed = f"{ctx.command_path} {like[near[0]].replace('.', ' ')}"
                raise click.UsageError(f"{error.message} Did you mean `{typed}`?", ctx) from error
            raise

    def _words(self) -> list[str]:
        after = (name[len(self._prefix) :] for name in self._points if name.startswith(self._prefix))
        return sorted({name.split(".")[0] for name in after})

    def _loads(self, ctx: click.Context, word: str) -> bool:
        try:
            return self.get_command(ctx, word) is not None
        except ConfigError:
            return False


def _both(command: click.Command, prefix: str, points: Sequence[EntryPoint]) -> click.Command:
    """Make a group that does what `command` does when no member is named."""

    @click.pass_context
    def run(ctx: click.Context, /, **options: Any) -> None:
        if ctx.invoked_subcommand is None:
            ctx.invoke(command, **options)

    return Commands(
        prefix,
        points,
        name=command.name,
        help=command.help,
        params=command.params,
        callback=run,
        invoke_without_command=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `he-agg` and exit with a stable code. Errors are one `he-agg: error:` line and perhaps a `he-agg: hint:`."""
    codes = "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    root: click.Command = Commands(
        "",
        list(entry_points(group=GROUP)),
        name="he-agg",
        help="Hospitals average model updates through an aggregator that cannot read them.",
        epilog=f"Exit codes: {codes}. An error ends with its reason in brackets: see `he-agg explain REASON`.",
        no_args_is_help=True,
    )
    root = click.version_option(package_name="he-agg", prog_name="he-agg")(root)
    warnings.showwarning = _show_warning
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # As on Ctrl-C: what is temporary goes, processes that were started end.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        code = root.main(args=arguments, prog_name="he-agg", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _complain(error.format_message(), _usage_hint(error))
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted", "")
        sys.exit(EXIT_INTERRUPTED)
    except HeAggError as error:
        _fail(error)
    except ImportError as error:
        _fail(_missing_module(error))
    except OSError as error:
        _fail(file_trouble(error))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: HeAggError) -> NoReturn:
    _complain(f"{error.message} [{error.reason}]", error.shell)
    sys.exit(exit_code(error))


def exit_code(error: HeAggError) -> int:
    """Return the code that a command ends with for an error."""
    if isinstance(error, TransportError):
        return EXIT_UNREACHABLE
    if isinstance(error, ConfigError | KeystoreError):
        return EXIT_FILES
    if isinstance(error, DecryptionError):
        return EXIT_UNVERIFIED
    return EXIT_REFUSED


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"he-agg: warning: {message}", file=sys.stderr)


def _complain(message: str, hint: str) -> None:
    print(f"he-agg: error: {message}", file=sys.stderr)
    if hint:
        print(f"he-agg: hint: {hint}", file=sys.stderr)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path} --help`" if context is not None else ""


def _missing_module(error: ImportError) -> ConfigError:
    name = (error.name or "").split(".")[0]
    if not isinstance(error, ModuleNotFoundError):
        return ConfigError(Reason.BAD_CONFIG, str(error))
    extra = next((extra for extra, modules in _EXTRAS.items() if name in modules), None)
    return ConfigError(
        Reason.BAD_CONFIG,
        f"this command needs the module {name!r}, which is not installed",
        "" if extra is None else f"install it with: pip install 'he-agg[{extra}]'",
    )
