"""Make the reference's pages from the code: commands, settings, errors, and the public names of each package."""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click

from client_sdk.config import Settings as SiteSettings
from he_agg import errors
from he_agg.explanations import EXPLANATIONS
from he_agg.host.commands import EXIT_CODES, GROUP, Commands, exit_code
from service.audit_events.catalogue import CATALOGUE, FIELDS
from service.problems import PROBLEMS, RETRY_AFTER_S
from service.settings import Settings

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "client_sdk": "Sites",
    "client_sdk.training": "Training",
    "client_sdk.adapters": "Adapters",
    "client_sdk.analytics": "Analytics",
    "client_sdk.compression": "Compression",
    "client_sdk.privacy": "Privacy",
    "client_sdk.flower": "Flower",
    "client_sdk.nvflare": "NVFlare",
    "he_agg": "Plans, means and errors",
    "he_agg.audit": "Audit",
    "keys": "Keys",
}
"""What users import. Other packages with an `__all__` are for the code itself."""


@cache
def pages() -> tuple[tuple[str, str], ...]:
    """Return the place and the text of each page: the code does not change while a site is built."""
    return tuple(_pages())


def _pages() -> Iterator[tuple[str, str]]:
    yield "reference/commands.md", "\n".join(_commands())
    yield "reference/settings.md", "\n".join(_settings())
    yield "reference/errors.md", "\n".join(_errors())
    yield "reference/audit-events.md", "\n".join(_audit_events())
    for package, title in PACKAGES.items():
        yield f"reference/api/{package}.md", "\n".join(_api(package, title))


def _commands() -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = [EntryPoint(name, value, GROUP) for name, value in project["entry-points"][GROUP].items()]
    root = Commands("", points, name="he-agg")
    yield "# Commands\n\nWhat `he-agg COMMAND --help` prints. A command that needs the extra `server` says so."
    yield "\n## Exit codes\n\n| code | what it means |\n|---|---|"
    yield from (f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    for name in root.list_commands(click.Context(root, info_name="he-agg")):
        yield from _command(root, click.Context(root, info_name="he-agg"), name, points, 2)


def _command(group: Commands, above: click.Context, name: str, points: list[EntryPoint], level: int) -> Iterator[str]:
    command = group.get_command(above, name)
    if command is None:
        raise LookupError(name)
    context = click.Context(command, parent=above, info_name=name)
    yield f"\n{'#' * level} he-agg {context.command_path.removeprefix('he-agg ')}\n"
    yield _text(command.help or "")
    if not isinstance(command, click.Group) or command.invoke_without_command:
        usage = context.get_usage().removeprefix("Usage: ")
        yield f"\n```text\n{usage}\n```\n"
        module = next(
            point.value for point in points if f"he-agg {point.name.replace('.', ' ')}" == context.command_path
        )
        if module.startswith("service."):
            yield "\nNeeds the extra `server`.\n"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            yield f"\n`{record[0]}`\n:   {_text(record[1]) or '(no more to say)'}"
    if isinstance(command, Commands):
        for inner in command.list_commands(context):
            yield from _command(command, context, inner, points, level + 1)


def _audit_events() -> Iterator[str]:
    yield "# Audit events\n\nWhat `he-agg serve --audit-log` sends, and nothing else. How to set it up: [Running an"
    yield "aggregator](../OPERATIONS.md#audit-log). An event has the fields that are known; its values are text or"
    yield "whole numbers. No event holds plaintext, a key, a token, a link, or anything out of an update."
    yield "\n## Events\n\n| event | severity | what has happened | fields |\n|---|---|---|---|"
    for kind in CATALOGUE.values():
        fields = ", ".join(f"`{field}`" for field in kind.fields)
        yield f"| `{kind.name}` | {kind.severity.name.lower()} ({kind.severity.value}) | {kind.meaning} | {fields} |"
    yield "\n## Fields\n\n| field | what it is |\n|---|---|"
    yield from (f"| `{field}` | {meaning} |" for field, meaning in FIELDS.items())
    yield _AUDIT_FORMS


_AUDIT_FORMS = """
## How an event is written

Times are UTC with microseconds. Each process numbers its events from 1: a number that is missing was lost.

| | syslog (RFC 5424) | file | OTLP |
|---|---|---|---|
| event | MSGID | `event` | event name |
| severity | PRI, facility 13 | `severity`: the name in the table | severity number and text |
| what has happened | MSG, UTF-8 with a BOM | `message` | body |
| number | `[meta sequenceId="..."]` | `sequence` | attribute `he_agg.sequence` |
| machine, process | HOSTNAME, PROCID; APP-NAME is `he-agg` | `host`, `process` | resource: `host.name`, `process.pid` |
| fields | `[he-agg@32473 ...]` | `fields`, an object | attributes `he_agg.` and the field |

A line of a file is one JSON object and has `v`, the version of its form: 1. Streams of syslog have octet counts, by
RFC 6587 and RFC 5425.
"""


def _settings() -> Iterator[str]:
    yield "# Settings\n\n## Of a site\n\nIn its TOML file, or as keyword arguments of `Site.open`. Paths in a file are"
    yield "relative to the file's folder.\n"
    yield "A trustee's `holder.toml` has `plan`, the public half of the plan, instead of `keystore`.\n"
    told: dict[str, str] = {}
    for kind in SiteSettings.__mro__:
        told |= re.findall(r"^ {8}(\w+): (.+?)(?=^ {8}\w+: |\Z)", kind.__doc__ or "", re.S | re.M)
    for field in dataclasses.fields(SiteSettings):
        default = "" if field.default in (dataclasses.MISSING, None) else f" Default: `{field.default}`."
        yield f"\n`{field.name}`\n:   {_text(' '.join(told[field.name].split()))}{default}"
    yield "\n## Of an aggregator\n\nIn the environment. `he-agg serve --help` shows which have an option, too.\n"
    for name, model_field in Settings.model_fields.items():
        default = "" if model_field.is_required() or model_field.default_factory else model_field.default
        shown = "" if default in ("", None) else f" Default: `{default}`."
        yield f"\n`HE_AGG_{name.upper()}`\n:   {_text(model_field.description or '')}{shown}"


def _errors() -> Iterator[str]:
    yield "# Errors and problems\n\nEvery error names one reason of a closed set. In Python it is `error.reason`, at"
    yield "the command line the word in brackets, in an answer of the aggregator `reason` of the problem document"
    yield "(RFC 9457).\n\n## Kinds\n\n| error | what | exit code |\n|---|---|---|"
    kinds = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    for kind in kinds:
        if kind is not errors.HeAggError:
            yield f"| `{kind.__name__}` | {_line(kind.__doc__)} | {exit_code(kind(errors.Reason.INTERNAL, ''))} |"
    yield "\n## Reasons\n"
    for reason in errors.Reason:
        means, to_do = (_linked(text[0].upper() + text[1:]) for text in EXPLANATIONS[reason])
        yield f"\n### `{reason}`\n\n{means}.\n\n**What to do:** {to_do[0].lower() + to_do[1:]}.\n"
        if reason in PROBLEMS:
            status, title = PROBLEMS[reason]
            again = f"; `Retry-After: {RETRY_AFTER_S[reason]}`" if reason in RETRY_AFTER_S else ""
            yield f"\nAn answer of the aggregator: {status}, *{title}*{again}."


def _api(package: str, title: str) -> Iterator[str]:
    yield f"# {title}: `{package}`\n"
    hidden = "".join(f"      {option}: false\n" for option in ("show_root_heading", "show_root_toc_entry", "members"))
    yield f"::: {package}\n    options:\n{hidden}"
    for name in import_module(package).__all__:
        yield f"\n::: {package}.{name}\n"


def _linked(text: str) -> str:
    """Link the pages that a text names."""
    return re.sub(r"(?<![\w`])((?:docs/)?[\w-]+\.md)", r"[\1](../\1)", text).replace(
        "../PROTOCOL", "../service/PROTOCOL"
    )


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def _text(text: str) -> str:
    """Write a help text as Markdown: what looks like HTML is text."""
    return inspect.cleandoc(text).replace("\b", "").replace("<", "&lt;").replace("*", "\\*").strip()
