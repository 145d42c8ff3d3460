"""After a real round with known secrets, nothing that monitoring shows, counts, logs or sends holds any of them."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import threading
from contextlib import closing

import httpx
import numpy as np
import pytest

import client_sdk._net.signing as signing
from client_sdk import Site
from he_agg import Layout, Plan
from he_agg.protocol.http_signatures import sign_request
from service.core.aggregator_key import AggregatorKey
from tests.service.monitor.watched import events_of, watched_server
from tests.support.real import SITES, Hospitals, in_threads, until
from tests.support.receivers import Collector
from tests.support.seeds import seed_of
from tests.support.server import he_agg

WEIGHTS = (409_613, 526_397, 614_031)
NAMES = ("very-secret-layer.weight", "very-secret-layer.bias")
CLIP = 0.617283945  # so long that no time that is shown is written like it


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Everything that monitoring has shown in a round, by where, and all secrets, by what."""
    root = tmp_path_factory.mktemp("secretive")
    rng = np.random.default_rng(seed_of("no secrets"))
    updates = [
        {NAMES[0]: rng.uniform(-0.5, 0.5, (60, 50)), NAMES[1]: rng.uniform(-0.5, 0.5, 50).astype(np.float32)}
        for _ in SITES
    ]
    layout = Layout.of(updates[0], clip=CLIP, weight_cap=655_211)
    plan = Plan.create("secretive", layout, max_sites=4, min_sites=3, rounds=2, codec="ckks", part_bytes=2**16)
    signatures: list[str] = []

    def spy(*arguments):
        fields = sign_request(*arguments)
        signatures.append(fields["Signature"].split(":")[1])
        return fields

    collector, means = Collector(), []
    environment = {
        "HE_AGG_TRACES": "true",
        "HE_AGG_AUDIT_LOG": f"file://{root}/audit.jsonl",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "HE_AGG_LOG_LEVEL": "DEBUG",
        "HE_AGG_UPLOAD_EXPIRY_S": "3600",
    }
    shown: dict[str, bytes] = {}
    with pytest.MonkeyPatch.context() as patch, watched_server(root / "data", environment) as watched:
        patch.setattr(signing, "sign_request", spy)
        data = watched.server.data_dir
        hospitals = Hospitals(watched.server, root, plan)
        client = watched.logged_in(watched.link)
        snapshots = []

        def listen():
            for snapshot in events_of(client):
                snapshots.append(json.dumps(snapshot))
                if snapshot["federations"][0]["published"]:
                    return

        def take_part(name):
            i = SITES.index(name)
            with Site.open(hospitals.config(name)) as site:
                means.append(site.current().aggregate(updates[i], weight=WEIGHTS[i]))

        listener = threading.Thread(target=listen)
        listener.start()
        in_threads(take_part)
        listener.join(30)
        # And requests that bring secrets to where they do not belong.
        with httpx.Client(base_url=watched.server.url) as stranger:
            secret = NAMES[0]
            stranger.get(f"/{secret}", headers={"Authorization": f"Bearer {secret}", "User-Agent": secret})
            stranger.get("/v1/federations/secretive/state", params={"after": secret})
            stranger.put(f"/v1/rounds/{secret}/submissions/{secret}?from={WEIGHTS[0]}", content=hospitals.key.mac_seed)
        assert client.get("/" + NAMES[0], headers={"Referer": NAMES[0]}).status_code == 404
        shown["events"] = "\n".join(snapshots).encode()
        until(lambda: client.get("/snapshot.json").json()["process"]["problems"])
        shown["snapshot"] = client.get("/snapshot.json").content
        shown["metrics"] = httpx.get(watched.metrics_url).content
        shown["metrics, logged in"] = client.get("/metrics").content
        for option in ("--once", "--json"):
            shown[f"watch {option}"] = he_agg("watch", "--once", option, "--data-dir", data).stdout.encode()
        link = watched.new_link()
        shown["watch --url"] = he_agg("watch", "--once", "--url", link).stdout.encode()
        shown["show"] = he_agg("federation", "show", "--json", "--data-dir", data).stdout.encode()
        until(lambda: b"fold" in b"".join(collector.bodies))
        watched.server.stop()
        shown["traces"] = b"\n".join(collector.bodies)
        shown["audit log"] = (root / "audit.jsonl").read_bytes()
        shown["log"] = watched.server.log_path.read_bytes()
        secrets = {"operator key": [(data / "operator.key").read_bytes()]}
        secrets["tokens"] = [watched.link.partition("#")[2].encode(), link.partition("#")[2].encode()]
        secrets["sessions"] = [cookie.value.encode() for cookie in client.cookies.jar]
        secrets["aggregator's key"] = [AggregatorKey.load_or_create(data).signing_key.to_bytes()]
        client.close()
        with closing(sqlite3.connect(data / "aggregator.sqlite3")) as db:
            documents = [json.loads(row[0]) for row in db.execute("SELECT manifest FROM submissions")]
            documents += [json.loads(row[0]) for row in db.execute("SELECT record FROM rounds WHERE record NOT NULL")]
    collector.close()
    assert len(means) == len(documents) - 1 == 3
    secrets["signatures of requests"] = [text.encode() for text in signatures]
    secrets["signatures of documents"] = [
        signature.encode() for document in documents for signature in document["signatures"].values()
    ]
    bodies = [document["body"] for document in documents if document["kind"] == "manifest"]
    secrets["tags"] = [tag.encode() for body in bodies for row in body["tags"] for tag in row if len(tag) > 6]
    secrets["digests of parts"] = [digest.encode() for body in bodies for digest in body["parts"]]
    secrets["group key"] = [hospitals.key.mac_seed, hospitals.key.mac_key, hospitals.key.key_material[1000:1040]]
    secrets["private keys"] = [hospitals.members[name].signing_key.to_bytes() for name in SITES]
    secrets["names"] = [b"very-secret", *(name.encode() for name in NAMES)]
    secrets["weights"] = [str(number).encode() for number in (*WEIGHTS, sum(WEIGHTS), 655_211)] + [repr(CLIP).encode()]
    values = [array for tensors in (*updates, means[0].tensors) for array in tensors.values()]
    secrets["values"] = [array.ravel()[:4].tobytes() for array in values]
    secrets["values"] += [repr(float(value))[:9].encode() for array in values for value in array.ravel()[:50]]
    return shown, secrets


def _apart(number: bytes, text: bytes) -> bool:
    return re.search(rb"(?<![0-9a-f.])" + re.escape(number) + rb"(?![0-9a-f])", text) is not None


WHAT = (
    "operator key", "tokens", "sessions", "aggregator's key", "signatures of requests", "signatures of documents",
    "tags", "digests of parts", "group key", "private keys", "names", "weights", "values",
)  # fmt: skip


@pytest.mark.parametrize("what", WHAT)
def test_nothing_shows_it(shown, what):
    content, secrets = shown
    assert secrets[what]
    if what == "weights":  # short ones, which a digest or a time may hold by chance
        found = [(w, n) for w, text in content.items() for n in secrets[what] if _apart(n, text)]
        assert found == []
        return
    for secret in secrets[what]:
        assert len(secret) >= 7, (what, secret)
        forms = {secret, secret.hex().encode(), base64.b64encode(secret), base64.b64encode(secret).rstrip(b"=")}
        for where, text in content.items():
            assert not any(form in text for form in forms), (where, what)


def test_the_search_would_find_something(shown):
    content, _ = shown
    for where, text in content.items():
        assert b"secretive" in text, where
    for where in ("events", "snapshot", "watch --once", "watch --json", "watch --url", "show", "log", "traces"):
        assert b"hospital-a" in content[where], where
    for where in ("metrics", "metrics, logged in"):
        assert b"hospital-a" not in content[where]
    assert b"/v1/rounds/{round_id}/submissions/{upload}" in content["traces"]
    assert b"secretive.1.1" in content["traces"]


def test_fields_are_the_known_ones(shown):
    content, _ = shown
    lines = [json.loads(line) for line in content["log"].splitlines()]
    assert {field for line in lines for field in line} <= {
        "time", "level", "message", "id", "method", "route", "status", "ms", "federation", "member", "round_id",
        "upload", "section", "n", "reason", "claimed", "temporary_files_removed", "found_schema_version",
    }  # fmt: skip
    snapshot = json.loads(content["snapshot"])
    (federation,) = snapshot["federations"]
    assert federation.keys() == {
        "federation", "stage", "paused_at", "end", "sites", "coordinators", "min_sites", "small_groups", "max_sites",
        "quorum", "rounds", "deadline_s", "published", "last_published", "plan_id", "codec", "values", "bytes_up",
        "epoch", "key_id", "committed", "roster_version", "roster_expires_at", "records", "head", "held_bytes",
        "sample_percent", "keep_sums", "keep_submissions", "disputed", "holding", "round", "history", "attempts",
        "submissions",
    }  # fmt: skip
    assert {field for site in federation["round"]["sites"] for field in site} == {
        "site", "state", "bytes", "bytes_total", "accepted_at", "asked_again",
    }  # fmt: skip
    assert {field for one in snapshot["process"]["problems"] for field in one} == {
        "at", "reason", "title", "status", "what", "federation", "member", "round_id", "id", "count",
    }  # fmt: skip
