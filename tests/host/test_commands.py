"""`he-agg` says in a sentence what the machine refuses: no traceback reaches whoever typed the command."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from he_agg.host.commands import GROUP, main

ROOT_ONLY = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return ended.value.code, capsys.readouterr().err


def told(error, *words):
    lines = error.splitlines()
    assert lines[0].startswith("he-agg: error: ")
    assert len(lines) <= 2
    for word in words:
        assert word in error


def test_a_directory_that_is_missing(capsys, tmp_path):
    out = tmp_path / "none" / "a.identity"
    code, err = run(capsys, "site", "init", "a", "--no-passphrase", "--out", out, "--public", tmp_path / "a.json")
    assert code == 4
    told(err, str(tmp_path / "none"))


@ROOT_ONLY
def test_a_directory_that_is_read_only(capsys, tmp_path):
    tmp_path.chmod(0o500)
    code, err = run(capsys, "aggregator", "show", "--data-dir", tmp_path)
    assert code == 4
    told(err, "Permission denied")


@pytest.mark.parametrize("command", [("aggregator", "show"), ("serve",)])
def test_a_data_directory_that_cannot_be_written_to(capsys, command):
    code, err = run(capsys, *command, "--data-dir", "/proc/he-agg")
    assert code == 4
    told(err, "/proc/he-agg")


@pytest.mark.parametrize("name", ["serve", "federation.show"])
def test_an_extra_that_is_not_installed(name):
    """As in a base install: the modules of the extra are not there."""
    assert name in {point.name for point in entry_points(group=GROUP)}
    program = (
        "import sys\n"
        "for name in ('sqlalchemy', 'pydantic', 'pydantic_settings', 'fastapi', 'uvicorn'): sys.modules[name] = None\n"
        f"from he_agg.host.commands import main; main({name.split('.')!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    told(done.stderr, "not installed", "pip install 'he-agg[server]'")


@pytest.mark.parametrize(
    ("words", "module"),
    [(["demo"], "matplotlib"), (["demo"], "sksurv"), (["bench", "report", "none.json"], "matplotlib")],
)
def test_a_library_of_a_demo_or_benchmark_that_is_not_installed(tmp_path, words, module):
    (tmp_path / "none.json").write_text("{}")
    program = f"import sys; sys.modules[{module!r}] = None\nfrom he_agg.host.commands import main; main({words!r})"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert f"needs the module {module!r}, which is not installed" in done.stderr


def test_a_module_that_is_missed_while_a_command_runs(tmp_path):
    """`he-agg serve` loads the web framework when it runs, not when its help is read."""
    program = (
        "import sys\n"
        "for name in ('fastapi', 'uvicorn'): sys.modules[name] = None\n"
        f"from he_agg.host.commands import main; main(['serve', '--data-dir', {str(tmp_path / 'data')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    told(done.stderr, "not installed", "pip install 'he-agg[server]'")


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("he-agg")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["foun"], "he-agg found"),
        (["roster", "sing"], "he-agg roster sign"),
        (["verify"], "he-agg roster verify"),
        (["init", "hospital-a"], "he-agg site init"),
        (["federation", "crate"], "he-agg federation create"),
    ],
)
def test_a_misspelt_command_is_answered_with_one_that_is_like_it(capsys, typed, meant):
    code, err = run(capsys, *typed)
    assert code == 2
    told(err, f"Did you mean `{meant}`?")


def test_a_command_that_is_like_none(capsys):
    code, err = run(capsys, "xyzzy")
    assert code == 2
    assert "mean" not in err
