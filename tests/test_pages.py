"""Commands that pages, hints and docstrings name can be typed as they stand.

A command is written in backquotes or in a block of shell. Its name alone is a mention; as soon as it has an argument,
all that Click requires must be there. Placeholders such as `...` and FILE stand for any value.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import textwrap

import click
import pytest

from he_agg.host.commands import Commands
from tests.support.written import PACKAGES, POINTS, ROOT, pages, sources

SHELL = ("", "sh", "bash", "console", "ini", "text", "Dockerfile", "yaml")
GROUPS = {point.name.split(".")[0] for point in POINTS if "." in point.name}
ALONE = {point.name for point in POINTS if "." not in point.name} - GROUPS
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
ROOT_COMMAND = Commands("", POINTS, name="he-agg")


def code_of_page(text):
    """Lines of shell, and code in the running text."""
    lines = []
    for kind, block in re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text, re.S | re.M):
        if kind in SHELL:
            lines += block.replace("\\\n", " ").splitlines()
        else:
            lines += re.findall(r"#.*?\b(he-agg .*)", block)  # in a comment of another language
    running = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
    return lines, [" ".join(one.split()) for one in re.findall(r"`([^`]+)`", running)]


def texts_of_module(path):
    """Texts in a module, docstrings included. `X` stands for what is put in while it runs."""
    tree = ast.parse(path.read_text())
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def commands_in(line):
    """What follows `he-agg` in a line of shell, up to where the shell takes over."""
    for words in re.findall(r"(?:^|[\s/(\"'])he-agg (?=[a-z-])([^|;&#)<>]*)", line):
        words = re.sub(r"(?<!\.)\.$", "", words.rstrip())
        yield words if words.count('"') % 2 == 0 and words.count("'") % 2 == 0 else words.rstrip("\"'")


def everything():
    """(where, line, whether it has to be complete) for each command that is written somewhere."""
    for path in pages():
        lines, spans = code_of_page(path.read_text())
        yield from ((path, words, True) for line in lines for words in commands_in(line))
        yield from ((path, words, False) for span in spans for words in commands_in(span))
    for path in sources("*.py"):
        for text in texts_of_module(path):
            spans = re.findall(r"`(he-agg [^`]+)`", text)
            yield from ((path, words, False) for span in spans for words in commands_in(" ".join(span.split())))
            bare = re.sub(r"``?[^`]+``?", "", text)
            for word, following in re.findall(r"\bhe-agg ([a-z-]+)( [a-z]+)?", bare):
                if word in ALONE or (word in GROUPS and following):
                    yield path, f"{word}{following} (put it in backquotes)", False
    for path in sources("*.js"):
        for text in re.findall(r'"([^"\n]*he-agg [^"\n]*)"', path.read_text()):
            yield from ((path, words, False) for words in commands_in(text))


def is_placeholder(word):
    return word == "X" or "..." in word or word.isupper() or word.startswith("$")


def check(line, complete):
    """Raise what Click would, for a command that cannot be typed like this."""
    words = shlex.split(re.sub(r"\[(--[^\]]*)\]", r"\1", line))
    for alternative in words[-1].split("|") if len(words) <= 2 else [words[-1]]:
        _check([*words[:-1], alternative], complete)


def _check(words, complete):
    command: click.Command = ROOT_COMMAND
    context = click.Context(ROOT_COMMAND, info_name="he-agg")
    while isinstance(command, click.Group) and words and not words[0].startswith("-") and words[0] != "...":
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"no such command {words[0]!r}")
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    if (not complete and words in ([], ["..."], ["--help"])) or (command is ROOT_COMMAND and words == ["--version"]):
        return
    if isinstance(command, click.Group) and not command.invoke_without_command:
        raise click.UsageError("a group alone does nothing")
    given, rest, _ = command.make_parser(context).parse_args(list(words))
    if rest:
        raise click.UsageError(f"too much: {rest}")
    for parameter in command.params:
        value = given.get(parameter.name)
        missing = not isinstance(value, bool | int | str | tuple | list) or value == ()
        if missing and parameter.required:
            raise click.MissingParameter(ctx=context, param=parameter)
        values = value if isinstance(value, tuple | list) else [value]
        if isinstance(parameter.type, click.Path):
            continue  # a page names files that the reader has
        if not missing and not any(isinstance(one, str) and is_placeholder(one) for one in values):
            parameter.type_cast_value(context, value)


def problem_of(line, complete):
    try:
        check(line, complete)
    except click.ClickException as error:
        return error.format_message()
    return None


def test_every_command_that_is_written_somewhere_can_be_typed():
    found = list(everything())
    assert len(found) > 150
    wrong = [
        f"{path.relative_to(ROOT)}: he-agg {line}: {problem}"
        for path, line, complete in found
        if (problem := problem_of(line, complete))
    ]
    assert wrong == []


def test_the_pages_of_the_ceremony_show_all_of_it():
    pages_of_it = ("ceremony.md", "join.md", "leave.md", "rotate.md")
    shown = {" ".join(line.split()[:2]) for path, line, _ in everything() if path.name in pages_of_it}
    assert shown >= {
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


@pytest.mark.parametrize(
    "line",
    [
        "keys new",
        "roster accept demo.roster-1.json",
        "roster next old.json --ad x",
        "federation create federation.json",
        "serve --port x",
        "epoch new --plan",
        "bundle",
    ],
)
def test_a_wrong_command_would_be_noticed(line):
    assert problem_of(line, complete=False) is not None


def test_modules_and_targets_exist():
    wrong = []
    for path in [*pages(), *sources("*.py")]:
        if path.suffix == ".md":
            lines, spans = code_of_page(path.read_text())
        else:
            lines, spans = [], [one for text in texts_of_module(path) for one in re.findall(r"`([^`]+)`", text)]
        for line in [*lines, *spans]:
            for module in re.findall(r"\bpython3? -m ([\w.]+)", line):
                ours = module.split(".")[0] in (*PACKAGES, "tests")
                wrong += [f"{path}: python -m {module}"] if ours and importlib.util.find_spec(module) is None else []
            target = re.match(r"\s*make ([a-z-]+)", line)
            if target and target[1] not in TARGETS:
                wrong.append(f"{path}: make {target[1]}")
    assert wrong == []


OURS = (
    "he_agg",
    *(
        f"client_sdk{room}"
        for room in ("", ".training", ".analytics", ".privacy", ".compression", ".flower", ".nvflare")
    ),
)
EXPORTED = {name: module for module in OURS for name in importlib.import_module(module).__all__}
KNOWN = EXPORTED | {"Path": "pathlib", "np": "numpy", "ThreadPoolExecutor": "concurrent.futures"}


@pytest.mark.parametrize(
    "page", [path for path in pages() if "```python" in path.read_text()], ids=lambda path: path.name
)
def test_python_on_a_page_has_its_imports(page):
    """Whoever copies the blocks of a page in their order finds each name of ours imported."""
    have: set[str] = set()
    missing = []
    for block in re.findall(r"^ *```python\n(.*?)^ *```", page.read_text(), re.S | re.M):
        nodes = list(ast.walk(ast.parse(textwrap.dedent(block))))
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                have |= {alias.asname or alias.name for alias in node.names}
                if isinstance(node, ast.ImportFrom) and node.module in OURS:
                    module = importlib.import_module(node.module)
                    missing += [f"{node.module}.{one.name}" for one in node.names if not is_there(module, one.name)]
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                have.add(node.id)
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        missing += [f"{name} of {KNOWN[name]}" for name in sorted(used & KNOWN.keys() - have)]
    assert missing == []


def is_there(module, name):
    return name in module.__all__ or importlib.util.find_spec(f"{module.__name__}.{name}") is not None
