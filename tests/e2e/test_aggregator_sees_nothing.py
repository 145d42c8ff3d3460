"""After whole rounds, nothing that the aggregator stored, logged or answered holds a site's plaintext or secrets."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from base64 import b64encode
from contextlib import closing

import numpy as np
import pytest

from client_sdk import Site
from he_agg import Layout, Plan
from he_agg.plan.schemes import SCHEMES
from keys import GroupKey
from keys.ceremony import deal
from service.core.aggregator_key import AggregatorKey
from tests.support.real import SITES, in_threads
from tests.support.seeds import seed_of
from tests.support.server import he_agg, start_server
from tests.support.trees import contents_of
from tests.support.trust import COORDINATOR, consortium

WEIGHTS = (40_961, 52_639, 61_403)
CLIP = 0.617283945  # so long that no duration in a log is written like it
NAMES = ("very-secret-layer.weight", "very-secret-layer.bias")


def cells_of(path):
    """Every cell of every table, as bytes: a dump would write documents in hex, where no search finds anything."""
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert len(tables) >= 5
        for table in tables:
            for row in database.execute(f"SELECT * FROM {table}"):
                yield from (cell if isinstance(cell, bytes) else str(cell).encode() for cell in row)


@pytest.fixture(scope="module", params=sorted(SCHEMES))
def traces(request, tmp_path_factory):
    """Run two rounds and collect everything the aggregator has, and the secrets to look for."""
    root = tmp_path_factory.mktemp("federation")
    rng = np.random.default_rng(seed_of("sees nothing"))
    updates = [
        {NAMES[0]: rng.uniform(-0.5, 0.5, (60, 50)), NAMES[1]: rng.uniform(-0.5, 0.5, 50).astype(np.float32)}
        for _ in SITES
    ]
    layout = Layout.of(updates[0], clip=CLIP, weight_cap=65_521)
    plan = Plan.create("secretive", layout, max_sites=4, min_sites=3, rounds=2, codec=request.param)
    key = GroupKey.create(plan)
    data = root / "aggregator"
    trusted = consortium("secretive", SITES, AggregatorKey.load_or_create(data).member)
    bundle = deal(key, trusted.roster, trusted.identities[COORDINATOR], time.time())
    for name, content in (("federation", key.federation_document), ("roster", trusted.roster), ("bundle", bundle)):
        (root / f"{name}.json").write_bytes(content.encode())
    documents = (root / "federation.json", "--roster", root / "roster.json", "--bundle", root / "bundle.json")
    he_agg("federation", "create", *documents, "--data-dir", data)
    for name in SITES:
        (root / name).mkdir(mode=0o700)
        key.save(root / name / "keystore")
        trusted.identities[name].save(root / name / "identity")
        (root / name / "roster").write_bytes(trusted.roster.encode())
    he_agg("federation", "start", "secretive", "--data-dir", data)

    means = []
    stored: dict[str, bytes] = {}

    def snapshot():
        for path, content in contents_of(data):
            stored[f"{path}@{len(stored)}"] = content

    with start_server(data, fresh=True) as server:

        def take_part(name):
            i, own = SITES.index(name), root / name
            files = {file: own / file for file in ("identity", "keystore", "roster", "spool")}
            with Site.open(url=server.url, **files) as site:
                for round in site.rounds():
                    means.append(round.aggregate(updates[i], weight=WEIGHTS[i], may_repeat=True))
                    snapshot()

        in_threads(take_part)
        snapshot()
        stored["log"] = server.log_path.read_bytes()
    assert len(means) == 6
    shown = he_agg("federation", "show", "secretive", "--json", "--data-dir", data)
    stored["federation show"] = shown.stdout.encode()
    stored["database"] = b"\n".join(cells_of(next(data.rglob("*.sqlite*"))))
    return plan, key, trusted.identities, updates, means, stored


def secrets_of(plan, key, identities, updates, means):
    yield from (name.encode() for name in NAMES)
    yield b"very-secret"
    yield repr(CLIP).encode()
    for identity in identities.values():
        private = (identity.signing_key.to_bytes(), identity.receiving_key.to_bytes())
        yield from (form for secret in private for form in (secret, secret.hex().encode(), b64encode(secret)))
    for secret in (key.mac_seed, key.mac_key):
        yield from (secret, secret.hex().encode(), b64encode(secret))
    yield key.key_material[1000:1040]
    for tensors in (*updates, means[0].tensors):
        for tensor in tensors.values():
            yield tensor.ravel()[:4].tobytes()
            yield from (repr(float(value))[:9].encode() for value in tensor.ravel()[:50])


def numbers_of(plan):
    """Sample counts as words of their own: keys and digests in hex are so long that five digits occur by chance."""
    for number in (*WEIGHTS, sum(WEIGHTS), plan.layout.weight_cap):
        yield re.compile(rb"(?<![0-9A-Za-z+/])%d(?![0-9A-Za-z+/])" % number)


def test_nothing_secret_is_stored_logged_or_shown(traces):
    plan, key, identities, updates, means, stored = traces
    assert len(stored) > 10
    assert any(b"hospital-a" in content for content in stored.values()), "the search must be able to find something"
    assert key.key_id.encode() in stored["database"]
    assert plan.plan_id.encode() in stored["database"]
    found = [
        (where, secret)
        for secret in secrets_of(plan, key, identities, updates, means)
        for where, content in stored.items()
        if secret in content
    ]
    assert found == []
    counts = [
        (where, number.pattern) for number in numbers_of(plan) for where, text in stored.items() if number.search(text)
    ]
    assert counts == []
    assert all(number.search(b'{"weight":%d}' % w) for number, w in zip(numbers_of(plan), WEIGHTS, strict=False))


def test_every_site_got_the_same_bits(traces):
    *_, means, _ = traces
    for mean in means[1:]:
        for name in NAMES:
            assert mean.tensors[name].tobytes() == means[0].tensors[name].tobytes()


def test_log_lines_are_objects_of_known_fields(traces):
    *_, stored = traces
    fields = {name for line in stored["log"].decode().splitlines() for name in json.loads(line)}
    assert {"time", "level", "message"} <= fields
    assert fields & {"token", "authorization", "body", "headers", "tensors", "weight"} == set()
