"""The stored documents, against the package and against a reader that shares nothing with it."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from he_agg.audit import audit
from he_agg.errors import WireError
from he_agg.protocol.http_signatures import RequestHead, parse_claim, verify_request
from tests.support.documents import EXAMPLES
from tests.vectors import make_documents, second_documents


def cases(name):
    return json.loads((make_documents.FOLDER / f"{name}.json").read_text())["cases"]


@pytest.mark.parametrize("name", make_documents.FILES)
def test_the_package_still_makes_the_stored_vectors(name):
    assert (make_documents.FOLDER / name).read_text() == make_documents.make(name)


@pytest.mark.parametrize("kind", make_documents.KINDS)
def test_the_package_takes_what_it_should_and_nothing_else(kind):
    taken = []
    for case in cases(kind):
        try:
            EXAMPLES[kind].check(case["document"].encode())
        except WireError:
            continue
        taken.append(case.get("wrong"))
    assert taken == [None]


def test_requests():
    verified = []
    for case in cases("request"):
        path, _, query = case["target"].partition("?")
        fields = case["fields"]
        head = RequestHead(case["method"], path, query, fields["Content-Digest"], fields["He-Agg-Federation"])
        claim = parse_claim(fields["Signature-Input"], fields["Signature"])
        if verify_request(head, claim, bytes.fromhex(case["public_key"])):
            verified.append(case.get("wrong"))
    # The body's digest is the reader's business.
    assert verified == [None, None, None, "a body where none was signed"]


def test_the_audit_takes_the_stored_transcript():
    result = audit(io.BytesIO((make_documents.FOLDER / "transcript.jsonl").read_bytes()))
    assert result.findings == []
    assert [row.outcome for row in result.rounds] == ["published", "failed", "published", "published"]


def test_the_second_reader_agrees():
    done = subprocess.run([sys.executable, second_documents.__file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "110 cases in 15 files agree\n"


def test_the_second_reader_shares_nothing_with_the_package():
    tree = ast.parse(Path(second_documents.__file__).read_text())
    names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert names
    assert not [n for n in names if n.startswith(("he_agg", "tests"))]


@pytest.mark.parametrize("name", make_documents.FILES)
def test_the_second_reader_notices_a_changed_vector(tmp_path, name):
    text = (make_documents.FOLDER / name).read_text()
    (tmp_path / name).write_text(text)
    assert second_documents.main(tmp_path) == 0
    changed = text.replace("hospital-a", "hospital-0", 1) if name != "receipt.json" else text.replace("1800", "1900", 1)
    assert changed != text
    (tmp_path / name).write_text(changed)
    assert second_documents.main(tmp_path) == 1
    (tmp_path / name).unlink()
    assert second_documents.main(tmp_path) == 1  # no vectors is no agreement
