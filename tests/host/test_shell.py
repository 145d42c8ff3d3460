"""Paths in printed commands: what a person copies into a shell names the same file."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.documents.public_file import PublicFile
from he_agg.host.commands import main
from he_agg.host.shell import quoted
from keys import Identity

ROOT = Path(__file__).parents[2]
AWKWARD = [
    "plain",
    "with space",
    "it's",
    'a "quoted" one',
    "-leading",
    "ümläut",
    "$HOME",
    "a;b",
    "tab\there",
    "50%",
    "`x`",
]
COMMAND = re.compile(r"`[^`]*`|\b(?:chmod|rm|mv|cp) [^;`]*")
NO_PATHS = {"name", "round_id", "facts['round_id']", "site", "maker", "typed", "signer", "federation"}
"""What a command may have in it as it is: names whose letters are restricted, and words."""


@pytest.mark.parametrize("name", AWKWARD)
def test_a_shell_takes_a_quoted_path_for_that_file(tmp_path, name):
    (tmp_path / name).write_text("here")
    for path in (tmp_path / name, Path(name)):
        done = subprocess.run(
            ["sh", "-c", f"cat {quoted(path)}"], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert (done.stdout, done.stderr) == ("here", "")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20))
def test_any_text_is_one_word_and_no_option(text):
    (word,) = shlex.split(quoted(text))
    assert word in (text, f"./{text}")
    assert not word.startswith("-")


@pytest.mark.parametrize("name", AWKWARD)
def test_the_printed_next_command_runs_as_it_is(tmp_path, monkeypatch, capsys, name):
    """A coordinator makes a roster in a folder of any name, and signs it with what was printed."""
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for member in ("coordinator", "aggregator", "hospital-a", "hospital-b", "hospital-c"):
        identity = Identity.create(member)
        identity.save(folder / member)
        (folder / f"{member}.json").write_bytes(PublicFile(identity.member()).encode())
    roster = Path(name) / "roster.json"
    out = f"./{roster}" if name.startswith("-") else str(roster)
    members = ["--coordinator", str(folder / "coordinator.json"), "--aggregator", str(folder / "aggregator.json")]
    members += [word for x in "abc" for word in ("--site", str(folder / f"hospital-{x}.json"))]
    with pytest.raises(SystemExit):
        main(["roster", "new", "demo", *members, "--out", out])
    printed, err = capsys.readouterr()
    found = re.search(r"then `(he-agg roster sign .*) --identity \.\.\.`", printed, re.DOTALL)
    assert found, printed + err
    typed = found[1].replace("he-agg", r"printf '%s\0'", 1)  # the words that a shell would give to he-agg
    words = subprocess.run(["sh", "-c", typed], capture_output=True, text=True, check=True)
    with pytest.raises(SystemExit) as end:
        main([*words.stdout.split("\0")[:-1], "--identity", str(folder / "coordinator")])
    assert end.value.code == 0, capsys.readouterr().err


def commands_in(path):
    """Return (line, expression) of what is put into a command in an f-string as it is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.JoinedStr):
            continue
        values = [value.value for value in node.values if isinstance(value, ast.FormattedValue)]
        numbers = iter(range(len(values)))
        text = "".join(
            str(part.value) if isinstance(part, ast.Constant) else f"\0{next(numbers)}\1" for part in node.values
        )
        for command in COMMAND.findall(text):
            if not re.match(r"`?(he-agg|find|chmod|rm|mv|cp)\b", command):
                continue
            for number in re.findall("\0(\\d+)\1", command):
                yield node.lineno, ast.unparse(values[int(number)])


def test_every_path_in_a_command_is_quoted():
    """A static check, of what people are told to type."""
    found = []
    for folder in ("he_agg", "keys", "service", "client_sdk", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, expression in commands_in(path):
                if not expression.startswith(("quoted(", "shlex.")) and expression not in NO_PATHS:
                    found.append(f"{path.relative_to(ROOT)}:{line}: {expression}")
    assert found == []
