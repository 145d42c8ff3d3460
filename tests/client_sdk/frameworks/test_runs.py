"""A run of a framework without the framework: what sites and server hand to each other, and what a site refuses."""

import ast
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import client_sdk.frameworks.adder
import client_sdk.frameworks.claim
from client_sdk.frameworks.adder import Adder, read_federation
from client_sdk.frameworks.claim import NO_SUM, Claim, digest_of, site_name
from client_sdk.frameworks.site import Keystore, RunSite
from client_sdk.training import training_plan
from client_sdk.training.agreement import SIGNS
from he_agg import dequantize, quantize
from he_agg.errors import DecryptionError, InputError, PlanError, ProtocolError, WireError
from he_agg.ids import RoundId
from keys import GroupKey

SITES = ("hospital-a", "hospital-b", "hospital-c")
WEIGHTS = dict(zip(SITES, (31, 100, 7), strict=True))
RUN, OTHER_RUN = "1" * 32, "2" * 32


def initial():
    return {"w": np.full(40, 0.125, np.float32), "b": np.zeros((), np.float32), "count": np.array(0)}


def update_of(site, number):
    draws = np.random.default_rng([SITES.index(site), number]).uniform(-1, 1, 41).astype(np.float32)
    return {"w": draws[:40], "b": np.asarray(draws[40])}


@pytest.fixture(scope="module")
def key():
    plan = training_plan("run", initial(), clip=2.0, weight_cap=256, max_sites=5, min_sites=2)
    return GroupKey.create(plan)


class Here:
    """Three sites and a server's sums, in one process. Each site has a keystore in a folder of its own."""

    def __init__(self, key, folder):
        self.key, self.folder, self.sums, self.digest, self.sites = key, folder, {}, NO_SUM, {}
        for site in SITES:
            (folder / site).mkdir(parents=True)
            key.save(folder / site / "keystore")
            self.sites[site] = self.start(site)
            self.sites[site].begin(initial())

    def start(self, site, run=RUN):
        return RunSite(Keystore(self.folder / site / "keystore"), site, run)

    def submit(self, site, number, **options):
        return self.sites[site].submit(number, update_of(site, number), WEIGHTS[site], **options)

    def adder(self, number, run=RUN):
        return Adder(self.key.federation_document, run, number, self.digest)

    def add(self, number, members=SITES):
        adder = self.adder(number)
        for site in members:
            adder.add(site, *self.submit(site, number))
        self.sums[number] = adder.total()
        self.digest = digest_of(self.sums[number][0])
        return self.sums[number]


@pytest.fixture
def here(key, tmp_path):
    return Here(key, tmp_path)


def plaintext(plan, rounds, members=lambda number: SITES):
    model = {name: initial()[name] for name in ("w", "b")}
    for number in range(1, rounds + 1):
        sums = np.zeros(plan.public.values, dtype=np.int64)
        for site in members(number):
            update = update_of(site, number) | {SIGNS: np.zeros(64, np.float32)}
            sums += quantize(plan, update, WEIGHTS[site]).values
        mean = dequantize(plan, sums, len(members(number))).tensors
        model = {n: (a.astype(np.float64) + mean[n].astype(np.float64)).astype(np.float32) for n, a in model.items()}
    return model


def same(model, expected):
    return all(model[name].tobytes() == expected[name].tobytes() for name in expected)


def test_the_model_is_plaintext_fixed_point_fedavg_bit_for_bit(here, key):
    """The second round is without one site, which catches up."""
    members = lambda number: SITES[:2] if number == 2 else SITES  # noqa: E731
    for number in (1, 2, 3):
        here.add(number, members(number))
        for site in members(number + 1):
            here.sites[site].follow(here.sums, number)
    expected = plaintext(key.plan, 3, members)
    for site in SITES:
        assert same(here.sites[site].follow(here.sums, 3), expected)
        with np.load(here.sites[site].model_path) as file:
            assert same(file, expected)
            assert int(file["count"]) == 0


def test_what_stays_at_a_site_is_as_it_has_trained_it(here):
    for site in SITES:
        here.submit(site, 1, local={"count": np.array(7)})
    here.add(1)
    assert int(here.sites[SITES[0]].follow(here.sums, 1)["count"]) == 7


def test_a_round_is_encrypted_once_whatever_is_asked(here):
    """A repeated task, and a process that was killed and started again: other numbers come, the same bytes go out."""
    first = here.submit("hospital-a", 1)
    here.sites["hospital-a"] = here.start("hospital-a")
    again = here.sites["hospital-a"].submit(1, update_of("hospital-a", 77), 50)
    assert again == first
    here.add(1)
    here.sites["hospital-a"].follow(here.sums, 1)
    with pytest.raises(ProtocolError, match=r"expected an update for round 2 .* got one for round 1; nothing was enc"):
        here.submit("hospital-a", 1)


def test_an_update_is_in_one_sum_only(here):
    here.submit("hospital-a", 1)
    here.sites["hospital-a"] = here.start("hospital-a", OTHER_RUN)
    here.sites["hospital-a"].begin(initial())
    with pytest.raises(InputError, match="was encrypted for round 1 of run 1111"):
        here.submit("hospital-a", 1)
    here.submit("hospital-a", 1, may_repeat=True)


def test_an_update_that_is_in_no_sum_may_go_into_another(here):
    here.submit("hospital-c", 1)
    here.add(1, SITES[:2])
    site = here.sites["hospital-c"]
    site.follow(here.sums, 1)
    site.submit(2, update_of("hospital-c", 1), WEIGHTS["hospital-c"])


def altered(total, what):
    claims, parts = list(total[0]), list(total[1])
    if what == "a residue":
        parts[-1] = parts[-1][:70] + bytes([parts[-1][70] ^ 1]) + parts[-1][71:]
    elif what == "the one-time key":
        parts[0] = parts[0][:100] + bytes([parts[0][100] ^ 1]) + parts[0][101:]
    elif what == "a site less":
        del claims[2]
    elif what == "this site less":
        del claims[0]
    elif what == "a site twice":
        claims[2] = claims[1]
    elif what == "random bytes":
        claim = Claim.parse(total[0][1])
        claims[1] = Claim(**{**vars_of(claim), "fresh": "0" * 32}).encode()
    return claims, parts


def vars_of(claim):
    return {name: getattr(claim, name) for name in claim.__dataclass_fields__}


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("a residue", DecryptionError),
        ("the one-time key", DecryptionError),
        ("a site less", DecryptionError),
        ("this site less", DecryptionError),
        ("a site twice", ProtocolError),
        ("random bytes", DecryptionError),
    ],
)
def test_what_the_server_alters_is_not_opened(here, what, error):
    total = here.add(1)
    site = here.sites["hospital-a"]
    with pytest.raises(error):
        site.follow({1: altered(total, what)}, 1)
    assert site.done == 0
    assert same(np.load(site.model_path), {name: initial()[name] for name in ("w", "b")})
    # Nothing of it keeps the right sum out, and the update counts as sent all the same.
    other = here.start("hospital-a", OTHER_RUN)
    other.begin(initial())
    with pytest.raises(InputError, match="this very update"):
        other.submit(1, update_of("hospital-a", 1), WEIGHTS["hospital-a"])
    site.follow({1: total}, 1)


def two_sums(here):
    """Of the first round: of two of the sites, and of all."""
    adder = here.adder(1)
    for site in SITES[:2]:
        adder.add(site, *here.submit(site, 1))
    return adder.total(), here.add(1)


def test_one_sum_of_a_round_is_opened(here):
    """Two sums that both hold: their difference would be what one hospital has sent."""
    fewer, all_of_them = two_sums(here)
    site = here.sites["hospital-a"]
    files = {path: path.read_bytes() for path in (site.model_path, site.model_path.with_name("submission"))}
    site.follow({1: all_of_them}, 1)
    for path, content in files.items():  # as if killed after opening, before the model was kept
        path.write_bytes(content)
    again = here.start("hospital-a")
    with pytest.raises(ProtocolError, match="which this site was shown first"):
        again.follow({1: fewer}, 1)
    again.follow({1: all_of_them}, 1)


def test_sites_that_followed_different_sums_do_not_go_on_together(here):
    fewer, all_of_them = two_sums(here)
    here.sites["hospital-a"].follow({1: all_of_them}, 1)
    for site in SITES[1:]:
        here.sites[site].follow({1: all_of_them if site == "hospital-c" else fewer}, 1)
    adder = here.adder(2)
    with pytest.raises(WireError, match=r"round run\.2\.1, site hospital-b, sum before: expected") as caught:
        adder.add("hospital-b", *here.submit("hospital-b", 2))
    assert "call the coordinator" in caught.value.hint
    # A server that hides it: the claim says what the others expect, but then its tags do not fit.
    claims, parts = here.submit("hospital-b", 2)
    claim = Claim.parse(claims[0])
    adder.add("hospital-b", [Claim(**{**vars_of(claim), "previous": here.digest}).encode()], parts)
    adder.add("hospital-a", *here.submit("hospital-a", 2))
    with pytest.raises(DecryptionError, match="nothing was opened"):
        here.sites["hospital-a"].follow({2: adder.total()}, 2)


def test_a_submission_to_another_run_does_not_count(here):
    old = here.submit("hospital-b", 1)
    server = here.adder(1, OTHER_RUN)
    with pytest.raises(WireError, match="site hospital-b, run: expected 2222"):
        server.add("hospital-b", *old)
    claim = Claim.parse(old[0][0])
    server.add("hospital-b", [Claim(**{**vars_of(claim), "run": OTHER_RUN}).encode()], old[1])
    here.sites["hospital-a"] = site = here.start("hospital-a", OTHER_RUN)
    site.begin(initial())
    server.add("hospital-a", *here.submit("hospital-a", 1))
    with pytest.raises(DecryptionError, match="not what hospital-a, hospital-b have submitted"):
        site.follow({1: server.total()}, 1)


def test_a_site_with_another_key_is_named(here, key):
    other = GroupKey.create(key.plan)
    (here.folder / "other").mkdir()
    other.save(here.folder / "other" / "keystore")
    stranger = RunSite(Keystore(here.folder / "other" / "keystore"), "hospital-c", RUN)
    stranger.begin(initial())
    adder = here.adder(1)
    submission = stranger.submit(1, update_of("hospital-c", 1), 7)
    with pytest.raises(WireError, match="site hospital-c, group key: expected") as caught:
        adder.add("hospital-c", *submission)
    assert "he-agg keys show" in caught.value.hint
    with pytest.raises(ProtocolError, match=r"expected 2 to 5 encrypted updates, got 0; round run\.1\.1, site hosp"):
        adder.total()
    # Were the server to let it in, its tags give it away before anything is opened.
    claim = Claim.parse(submission[0][0])
    adder.add("hospital-c", [Claim(**{**vars_of(claim), "key_id": key.key_id}).encode()], submission[1])
    adder.add("hospital-a", *here.submit("hospital-a", 1))
    with pytest.raises(DecryptionError, match="not what hospital-a, hospital-c have submitted together"):
        here.sites["hospital-a"].follow({1: adder.total()}, 1)


def test_the_server_takes_one_submission_of_each_site_by_its_own_name(here):
    adder = here.adder(1)
    adder.add("hospital-a", *here.submit("hospital-a", 1))
    with pytest.raises(ProtocolError, match="it has one in the sum"):
        adder.add("hospital-a", *here.submit("hospital-a", 1))
    with pytest.raises(ProtocolError, match="expected a claim of site hospital-c, got one of hospital-b"):
        adder.add("hospital-c", *here.submit("hospital-b", 1))
    with pytest.raises(ProtocolError, match="expected 2 to 5 encrypted updates, got 1"):
        adder.total()


def test_two_machines_under_one_name_are_found(here, key):
    (here.folder / "twin").mkdir()
    key.save(here.folder / "twin" / "keystore")
    twin = RunSite(Keystore(here.folder / "twin" / "keystore"), "hospital-a", RUN)
    twin.begin(initial())
    twin.submit(1, update_of("hospital-a", 5), 3)
    here.add(1)
    with pytest.raises(ProtocolError, match="names a submission of site hospital-a that is not the one that is kept"):
        twin.follow(here.sums, 1)


@pytest.mark.parametrize("run", ["../../hospital-b/keystore", "1" * 31, "", "G" * 32])
def test_a_run_that_is_none_names_no_folder(here, run):
    with pytest.raises(WireError, match="run: expected 32 lower-case hex digits"):
        here.start("hospital-a", run)


def test_a_sum_that_is_gone_and_a_site_without_a_model_are_said(here, key):
    with pytest.raises(ProtocolError, match="the sum of round 1 did not come"):
        here.sites["hospital-a"].follow({}, 1)
    new = here.start("hospital-a", OTHER_RUN)
    with pytest.raises(ProtocolError, match="expected the initial weights of run 2222"):
        new.follow({}, 0)


@pytest.mark.parametrize(
    ("change", "weight", "message"),
    [
        ({"w": np.full(40, 9, np.float32)}, 5, "beyond"),
        ({"w": np.full(40, np.nan, np.float32)}, 5, "finite"),
        ({}, 1000, "weight"),
    ],
)
def test_what_the_plan_does_not_allow_is_not_encrypted(here, change, weight, message):
    site = here.sites["hospital-a"]
    with pytest.raises(InputError, match=message):
        site.submit(1, update_of("hospital-a", 1) | change, weight)
    here.submit("hospital-a", 1)


def test_a_server_takes_no_keystore_and_no_plan_that_splits_keys(here, key):
    with pytest.raises(WireError, match="key"):
        read_federation(here.folder / "hospital-a" / "keystore")
    split = training_plan("run", initial(), clip=2.0, weight_cap=256, max_sites=5, keys="split")
    with pytest.raises(PlanError, match="no holders"):
        read_federation(GroupKey.create(split).federation_document)


def test_a_claim_is_what_format_md_says():
    """Written out by hand from he_agg/FORMAT.md."""
    claim = Claim("1" * 32, RoundId("run", 3, 1), 2, "a" * 64, "b" * 64, "site-1", "c" * 32, "d" * 64, ((5, 6), (7,)))
    body = (
        f'"attempt":1,"epoch":2,"federation":"run","fresh":"{"c" * 32}","key_id":"{"a" * 64}","plan_id":"{"b" * 64}",'
        f'"previous":"{"d" * 64}","round":3,"run":"{"1" * 32}","site":"site-1",'
    )
    assert claim.encode() == f'{{{body}"tags":[["5","6"],["7"]],"v":1}}'.encode()
    assert claim.nonce == sha256(f'he-agg/claim/v1\0{{{body}"v":1}}'.encode()).hexdigest()[:32]
    assert Claim.parse(claim.encode()) == claim
    other = b"another claim"
    both = sha256(claim.encode()).digest() + sha256(other).digest()
    assert digest_of([claim.encode(), other]) == sha256(b"he-agg/run-sum/v1\0" + both).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data.replace(b'"v":1', b'"v":2'),
        lambda data: data.replace(b"site-1", b"Site 1"),
        lambda data: data.replace(b'"5"', b"5"),
        lambda data: data.replace(b'"round":3', b'"round":0'),
        lambda data: b"[]",
    ],
)
def test_what_is_no_claim_is_refused(change):
    claim = Claim("1" * 32, RoundId("run", 3, 1), 2, "a" * 64, "b" * 64, "site-1", "c" * 32, "d" * 64, ((5,),))
    with pytest.raises(WireError):
        Claim.parse(change(claim.encode()))


def test_names_of_frameworks_become_names_of_sites():
    assert site_name("site-1") == "site-1"
    assert site_name("Hospital_A") != site_name("hospital_a")
    for name in ("Hospital_A", "-x", "München", "a" * 80, ""):
        assert site_name(site_name(name)) == site_name(name)


@pytest.mark.parametrize("module", [client_sdk.frameworks.adder, client_sdk.frameworks.claim])
def test_the_servers_side_imports_no_key_module(module):
    tree = ast.parse(Path(module.__file__).read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.split(".")[0] == "keys" or "codecs" in name or "fixedpoint" in name for name in names if name)
