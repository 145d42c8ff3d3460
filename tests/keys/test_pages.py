"""The pages people follow: every command in them exists and takes the options that the page gives it."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "ceremony.md"
COMMANDS = {point.name: point for point in entry_points(group="he_agg.commands")}


def commands() -> list[str]:
    """Commands in blocks and in the running text, each on one line."""
    text = PAGE.read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)).replace("\\\n", " ")
    inline = re.findall(r"`(he-agg [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [line for line in [*blocks.splitlines(), *(" ".join(one.split()) for one in inline)] if line.strip()]


def parsed(line: str) -> click.Context:
    """The command with its arguments read, as far as that goes without running it."""
    program, *words = shlex.split(line, comments=True)
    assert program == "he-agg"
    length = max(n for n in (1, 2) if ".".join(words[:n]) in COMMANDS)
    command = COMMANDS[".".join(words[:length])].load()
    return command.make_context("he-agg", words[length:])


def test_every_command_of_the_page_can_be_typed():
    found = commands()
    assert len(found) > 25
    assert {" ".join(line.split()[1:3]) for line in found} >= {
        "site init",
        "roster new",
        "roster sign",
        "roster verify",
        "roster accept",
        "roster next",
        "roster publish",
        "epoch new",
        "epoch publish",
        "epoch accept",
        "epoch rotate",
        "epoch commitments",
        "keys check-commitments",
        "site revoke",
    }
    for line in found:
        parsed(line)


def test_a_wrong_command_would_be_noticed():
    with pytest.raises(click.UsageError):
        parsed("he-agg roster accept demo.roster-1.json")
    with pytest.raises(click.UsageError):
        parsed("he-agg roster next old.json --ad x")
