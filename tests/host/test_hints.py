"""Hints speak the language of the place: Python where Python raised, shell on the command line."""

import ast
import pickle
import re
import traceback
from pathlib import Path

import pytest

from he_agg.errors import InputError, Reason

ROOT = Path(__file__).parents[2]
PYTHON = re.compile(r"\b\w+(\.\w+)*\([^)]*\)|\b\w+=['\"\[{\d]|\b\w+=\w|`\.\w")
COMMAND = re.compile(r"`he-agg[^`]*`")
REACHED = ("he_agg", "keys", "service", "client_sdk/_protocol", "client_sdk/_disk", "client_sdk/_net", "client_sdk/cli")
"""What commands call. The rest of the SDK is reached from Python alone."""
OWN_WORDS = {
    "keys/files.py": "numpy.savez",  # how to make the file that the command asks for
    "he_agg/host/comparing.py": "--fingerprint NAME=",
    "client_sdk/cli/found.py": "--fingerprint NAME=",
    "keys/cli/roster.py": "--",
    "keys/rosters.py": "--",
    "service/core/find.py": "GET /v1/",
    "service/core/holding.py": "GET /v1/",
    "service/http/routes/sums.py": "GET /v1/",
    "service/work/roles.py": "HE_AGG_DATABASE_URL=",
}
"""What looks like Python and is an option, a variable, a request, or what the user has to write in Python anyhow."""


def text_of(node):
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            return "".join("{}" if isinstance(v, ast.FormattedValue) else text_of(v) for v in values)
        case ast.BinOp(left=left, right=right):
            return text_of(left) + text_of(right)
        case ast.IfExp(body=body, orelse=orelse):
            return f"{text_of(body)} / {text_of(orelse)}"
    return ""


def hints_in(path):
    """Return (line, hint, has words of the shell) of every error that is made in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if not name.endswith("Error"):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        hint = node.args[2] if len(node.args) > 2 else named.get("hint")
        yield node.lineno, text_of(hint), len(node.args) > 3 or "shell" in named


def test_hints_with_python_in_them_have_words_for_the_shell():
    """A static check: every error that a command can end with."""
    found = []
    for folder in REACHED:
        for path in (ROOT / folder).rglob("*.py"):
            relative = str(path.relative_to(ROOT))
            for line, hint, has_shell in hints_in(path):
                plain = COMMAND.sub("", hint)
                if PYTHON.search(plain) and not has_shell and OWN_WORDS.get(relative, "\0") not in plain:
                    found.append(f"{relative}:{line}: {hint}")
    assert found == []


def test_the_check_finds_what_it_looks_for(tmp_path):
    """Otherwise an empty list says nothing."""
    bad = tmp_path / "bad.py"
    bad.write_text('raise InputError(R, "m", f"call round.resume({x})")\nraise InputError(R, "m", "h()", "shell")\n')
    assert list(hints_in(bad)) == [(1, "call round.resume({})", False), (2, "h()", True)]
    assert PYTHON.search("call round.resume({})")


def test_a_traceback_ends_with_the_hint():
    error = InputError(Reason.BAD_ARGUMENT, "expected this", "call that()", "run `that`")
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert traceback.format_exception_only(one)[-1] == "hint: call that()\n"
        assert (one.hint, one.shell, one.reason) == ("call that()", "run `that`", Reason.BAD_ARGUMENT)
    assert InputError(Reason.BAD_ARGUMENT, "m", "both").shell == "both"
    assert not hasattr(InputError(Reason.BAD_ARGUMENT, "m"), "__notes__")


def test_the_command_line_shows_the_words_of_the_shell(capsys):
    from he_agg.host.commands import _fail

    with pytest.raises(SystemExit):
        _fail(InputError(Reason.BAD_ARGUMENT, "m", "call that()", "run `that`"))
    assert capsys.readouterr().err.splitlines() == ["he-agg: error: m [bad-argument]", "he-agg: hint: run `that`"]
