"""The pages suffice: a client that was written from them takes part beside our own sites and opens the same bits."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag

from client_sdk import Site
from client_sdk._effects import Request
from client_sdk._protocol.state import federation_state
from he_agg import Layout, Plan
from he_agg.documents.draw import draw, drawn_number
from he_agg.errors import ProtocolError
from he_agg.ids import RoundId
from he_agg.signing import SigningKey
from keys import GroupKey
from tests.keys import dealing
from tests.second_client import client
from tests.support.flows import CONSORTIUM, FakeAggregator, World, session_for, small_plan
from tests.support.real import SITES, Hospitals, in_threads
from tests.support.server import QUICK, start_server

CLIENT = Path(__file__).with_name("client.py")
ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / name).read_text() for name in ("he_agg/FORMAT.md", "service/PROTOCOL.md")}
HELPERS = {"RefusedError", "need", "sha256", "largest", "section"}
ALLOWED = {"httpx", "cryptography", "numpy", "tenseal"}
SHAPES = {
    "dense": ((700, 50), "float32"),
    "bias": ((), "float64"),
    "half": ((3, 5), "float16"),
    "none": ((0, 2), "float32"),
}
CLIPS = {"dense": 1.0, "bias": 0.5, "half": 2.5e-05, "none": 1.0}
PLANS: dict[str, dict[str, Any]] = {
    "hybrid-one-modulus": {"codec": "hybrid", "value_bits": 17, "max_sites": 31},
    "hybrid-three-values": {"codec": "hybrid", "value_bits": 10, "max_sites": 5},
    "hybrid-two-moduli": {"codec": "hybrid", "value_bits": 24, "max_sites": 40},
    "ckks": {"codec": "ckks", "value_bits": 16, "max_sites": 7},
}


def plan_of(name):
    example = {tensor: np.zeros(shape, dtype) for tensor, (shape, dtype) in SHAPES.items()}
    layout = Layout.of(example, clip=CLIPS, weight_cap=2000)
    return Plan.create(name, layout, rounds=2, part_bytes=2**16, **PLANS[name])


def update_of(rng):
    """A site's update, within the clip bounds and up to them."""
    out = {}
    for name, (shape, dtype) in SHAPES.items():
        x = np.asarray(rng.uniform(-1, 1, shape) * CLIPS[name]).astype(dtype)
        out[name] = np.clip(x, -CLIPS[name], CLIPS[name]).astype(dtype)
    return out


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with start_server(tmp_path_factory.mktemp("second") / "data", QUICK) as running:
        yield running


def second_client(directory, url, update, weight):
    """Run the client as a process of its own."""
    np.savez(directory / "update.npz", **update)
    job = {
        "url": url,
        "identity": str(directory / "identity"),
        "keystore": str(directory / "keystore"),
        "roster": str(directory / "roster.json"),
        "update": str(directory / "update.npz"),
        "mean": str(directory / "mean.npz"),
        "weight": weight,
    }
    done = subprocess.run(
        [sys.executable, "-I", str(CLIENT)], input=json.dumps(job), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    with np.load(directory / "mean.npz") as mean:
        return json.loads(done.stdout), dict(mean)


@pytest.mark.parametrize("name", sorted(PLANS))
def test_it_takes_part_beside_our_sites_and_opens_the_same_bits(server, tmp_path, rng, name):
    plan = plan_of(name)
    if plan.public.codec == "hybrid":
        parameters = plan.public.parameters
        facts = {"one-modulus": (1, 1), "three-values": (3, 2), "two-moduli": (1, 2)}
        assert (parameters.packing, len(parameters.moduli)) == facts[name.removeprefix("hybrid-")]
    hospitals = Hospitals(server, tmp_path, plan)
    *_, theirs = SITES
    # The second round has a chain to catch up with: the client is a new process each time.
    for number in (1, 2) if name == "hybrid-three-values" else (1,):
        updates = {site: (update_of(rng), int(rng.integers(700, 2001))) for site in SITES}
        take_part = partial(_take_part, hospitals, updates)
        *means, (said, opened) = in_threads(take_part)
        for mean in means:
            assert said["total_weight"] == mean.total_weight == sum(weight for _, weight in updates.values())
            assert said["round"] == f"{name}.{number}.1"
            assert opened.keys() == mean.tensors.keys()
            for tensor, values in mean.tensors.items():
                assert opened[tensor].dtype == values.dtype
                assert opened[tensor].shape == values.shape
                assert opened[tensor].tobytes() == values.tobytes()
        asking = client.Client(server.url, client.Identity(hospitals.directory(theirs) / "identity"), name)
        with asking.http:
            answer = json.loads(asking.request("GET", f"/v1/rounds/{name}.{number}.1/verdicts").content)
        verdicts = [(v["body"]["site"], v["body"]["verdict"]) for v in answer["verdicts"]]
        assert verdicts == [(site, "opened") for site in SITES]
    if name == "hybrid-three-values":
        directory = hospitals.directory(theirs)
        identity, key = client.Identity(directory / "identity"), client.GroupKey.from_keystore(directory / "keystore")
        site = client.Site(server.url, identity, key, client.Rosters((directory / "roster.json").read_bytes()))
        with site.client.http:
            body = site.check_state(site.client.request("GET", f"/v1/federations/{name}/state").content)
        assert site.ended
        assert (body["stage"], body["index"], body["disputed"]) == ("ended", 3, None)


def disputes(*at):
    """The state says that a sum is disputed."""
    return lambda server: setattr(server, "disputed", RoundId("test", *at))


def says(stage):
    """The state says where the federation stands, whatever its records say."""
    return lambda server: setattr(server, "stage", stage)


def ends(server, **changed):
    """A record ends the federation, after the one round that was published."""
    server.end(**changed)


def goes_on(server):
    """After its end there is another record."""
    server.end()
    server.open(RoundId("test", 2, 2))
    server.fail()
    server.stage = "ended"


CLAIMS: dict[str, tuple[Any, bool]] = {
    "as it is": (says("running"), True),
    "a dispute of the newest sum": (disputes(1, 1), True),
    "a dispute of another attempt": (disputes(1, 2), False),
    "a dispute of what has no sum": (disputes(2, 1), False),
    "an end": (ends, True),
    "an end in words": (says("ended"), False),
    "an end, and going on in words": (lambda server: (ends(server), says("running")(server)), False),
    "an end, and another record": (goes_on, False),
    "an end that nobody has signed": (partial(ends, signer=("aggregator", SigningKey.generate())), False),
    "an early end as if by the plan": (partial(ends, reason="rounds"), False),
    "an end that skips a round": (partial(ends, round_id=RoundId("test", 3, 1)), False),
    "an end that skips all rounds": (partial(ends, round_id=RoundId("test", 101, 1), reason="rounds"), False),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_it_believes_of_an_end_and_a_dispute_what_ours_believes(tmp_path, claim):
    plan, (change, believed) = small_plan(), CLAIMS[claim]
    server = FakeAggregator(plan)
    server.others_submit()
    server.close(excluded={"a": "absent"})
    server.open(RoundId("test", 2, 1))
    change(server)
    key = SimpleNamespace(federation="test", epoch=1, key_id=server.key.key_id)
    key.plan = SimpleNamespace(id=plan.plan_id, public=plan.public.to_json())
    identity: Any = SimpleNamespace(name="a")
    theirs = client.Site("http://test", identity, key, client.Rosters(CONSORTIUM.roster.encode()))

    def request(method, path, query="", **_):
        answer = server(Request(method, f"{path}?{query}", frozenset({200})), b"")
        return SimpleNamespace(status_code=answer.status, content=answer.body)

    theirs.client.request = request  # type: ignore[method-assign,assignment]
    asks: list[tuple[Any, type[Exception]]] = [
        (lambda: theirs.check_state(request("GET", "/v1/federations/test/state").content), client.RefusedError),
        (lambda: World(server).run(federation_state(session_for(tmp_path, plan))), ProtocolError),
    ]
    for ask, refusal in asks:
        if believed:
            ask()
        else:
            with pytest.raises(refusal):
                ask()
    assert not believed or theirs.ended == (claim == "an end")


def _take_part(hospitals, updates, site):
    if site == SITES[-1]:
        return second_client(hospitals.directory(site), hospitals.server.url, *updates[site])
    with Site.open(hospitals.config(site)) as opened:
        round = opened.current()
        assert round is not None
        tensors, weight = updates[site]
        return round.aggregate(tensors, weight=weight)


@pytest.mark.parametrize("percent", [1, 34, 60, 99, 100])
def test_it_draws_the_same_sites(rng, percent):
    sites, counted = [f"hospital-{i}" for i in range(17)], rng.bytes(32).hex()
    roster = {"min_sites": 9, "members": {site: {"roles": ["site"], "signing_key": ""} for site in sites}}
    asks: Any = SimpleNamespace(
        plan=SimpleNamespace(public={"sample_percent": percent, "min_sites": 3}), counted=counted, again=None
    )
    for attempt in range(1, 30):
        at = {"federation": "f", "round": 7, "attempt": attempt, "roster": rng.bytes(32).hex()}
        theirs = client.Site.invited(asks, roster, at)
        number = drawn_number(len(sites), percent, 9)
        assert theirs == draw(set(sites), number, RoundId("f", 7, attempt), at["roster"], counted)


def test_it_imports_nothing_of_ours():
    imported = set()
    for node in ast.walk(ast.parse(CLIENT.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "exec", "eval")
    assert imported - sys.stdlib_module_names == ALLOWED
    assert not imported & {"importlib", "runpy", "subprocess", "pkgutil"}


def test_every_function_names_the_section_that_it_follows():
    headings = {name.split("/")[1]: set(re.findall(r"^#+ (.*)$", text, re.MULTILINE)) for name, text in PAGES.items()}
    named = {page: set() for page in headings}
    for node in ast.walk(ast.parse(CLIENT.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name in HELPERS:
            continue
        found = re.match(r"(FORMAT\.md|PROTOCOL\.md): (.+)", ast.get_docstring(node) or "")
        assert found, node.name
        followed = {heading for heading in headings[found[1]] if found[2].startswith(heading)}
        assert followed, (node.name, found[2])
        named[found[1]] |= followed
    # What it does not need: others' documents and runs, how versions go on, how he-agg's sites draw, and split keys.
    left = headings["FORMAT.md"] - named["FORMAT.md"]
    assert left == {
        "Bytes of he-agg",
        "Claims in runs of other frameworks",
        "Dealings",
        "Evidence",
        "Lists of holders",
        "Submission keys",
        "Transcript",
        "Versions",
    }


@pytest.mark.parametrize("name", ["hospital-a", "hospital-b"])
def test_it_reads_files_under_a_passphrase_and_opens_bundles(tmp_path, name):
    """hospital-a has the hybrid suite, hospital-b the small one."""
    ours, passphrase = dealing.world(), "Zwölf Boxkämpfer"
    dealing.site(name).save(tmp_path / "identity", passphrase)
    ours.key.save(tmp_path / "keystore", passphrase)
    identity = client.Identity(tmp_path / "identity", passphrase)
    assert identity.fingerprint == dealing.site(name).fingerprint
    rosters = client.Rosters(ours.roster.encode())
    for key in (
        client.GroupKey.from_keystore(tmp_path / "keystore", passphrase),
        client.GroupKey.from_bundle(ours.bundle.encode(), rosters, identity),
    ):
        assert (key.key_id, key.mac_key, key.plan.id) == (ours.key.key_id, ours.key.mac_key, ours.plan.plan_id)
    with pytest.raises(InvalidTag):
        client.Identity(tmp_path / "identity", "zwölf boxkämpfer")


@pytest.mark.parametrize("name", sorted(PLANS))
def test_its_tags_refuse_another_sum(tmp_path, rng, name):
    GroupKey.create(plan_of(name)).save(tmp_path / "keystore")
    key = client.GroupKey.from_keystore(tmp_path / "keystore")
    plan, round_id = key.plan, f"{name}.1.1"
    tags, manifests = client.Tags(key, round_id), []
    total: Any = None
    moduli = [np.uint64(plan.modulus(i)) for i in range(len(plan.sections))]
    for site in ("a", "b"):
        sections = [
            rng.integers(0, int(q), s["residues"], np.uint64) for q, s in zip(moduli, plan.sections, strict=True)
        ]
        manifests.append({"site": site, "nonce": "ab" * 16, "tags": tags.of(sections, site, "ab" * 16)})
        total = sections if total is None else [(x + y) % q for x, y, q in zip(total, sections, moduli, strict=True)]
    tags.check_sum(total, manifests)
    for residues, q in zip(total, moduli, strict=True):
        place = rng.integers(residues.size)
        residues[place] = (residues[place] + np.uint64(1)) % q
        with pytest.raises(client.RefusedError, match="tags"):
            tags.check_sum(total, manifests)
        residues[place] = (residues[place] + q - np.uint64(1)) % q
    with pytest.raises(client.RefusedError, match="tags"):
        tags.check_sum(total, manifests[:1])
