"""Serving and working apart, and several serving processes behind one address: each may die at any time."""

import os
import random
import signal
import socket
import threading
import time

import httpx
import psycopg
import pytest

from service.failpoints import EXIT_KILLED, VARIABLE
from service.store.schema import SCHEMA_VERSION
from service.work.folder import RANGE_PARTS
from tests.support.replicas import Replicas, children_of
from tests.support.seeds import seed_of
from tests.support.server import he_agg

THREE_RANGES = 40_000
"""Values of 20 parts."""


@pytest.fixture
def make_replicas(postgres, tmp_path):
    opened = []

    def make(**options):
        opened.append(Replicas(postgres.new_database(), tmp_path, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def wait_for(what, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
    return found


def test_who_serves_without_working_publishes_nothing_and_a_worker_does(make_replicas):
    replicas = make_replicas(HE_AGG_METRICS_PORT="0")
    replicas.serve(HE_AGG_WORK="0")
    round_id, prepared = replicas.next_round()
    replicas.submit(prepared)
    assert replicas.peer("a").record(round_id, wait=0.5).status_code == 204
    worker = replicas.work()
    replicas.check_sum(round_id, prepared)
    metrics = httpx.get(worker.line().removeprefix("metrics on ")).text
    assert 'he_agg_folds_total{federation="f",outcome="published"} 1.0' in metrics
    assert worker.stop() == 0
    assert replicas.processes[0].stop() == 0
    assert not replicas.failures()


def test_workers_die_at_every_step_of_their_ranges(make_replicas):
    """Two workers, each with its own way to die; a third life of each goes on where the ones before stopped."""
    replicas = make_replicas(values=THREE_RANGES, HE_AGG_FOLD_THREADS="2")
    assert len(replicas.plan.public.places) > 2 * RANGE_PARTS
    replicas.serve(HE_AGG_WORK="0")
    before = None
    for ways in (
        ("folding.began:1", "folding.before_row:3"),
        ("folding.done:1", "transaction.before_commit:6"),
    ):
        round_id, prepared = replicas.next_round(after=before)
        workers = [replicas.work(**{VARIABLE: way}) for way in ways]
        replicas.submit(prepared)
        codes = [worker.wait(60) for worker in workers if worker.poll() is not None or wait_for(worker.poll)]
        assert codes == [EXIT_KILLED] * 2
        assert replicas.peer("a").record(round_id).status_code == 204
        # Whoever comes next waits for no lease longer than it lasts, and makes only what is missing.
        last = replicas.work()
        replicas.check_sum(round_id, prepared)
        assert last.stop() == 0
        before = round_id
    assert not replicas.failures()


def test_a_worker_that_is_asked_to_stop_lets_others_go_on_at_once(make_replicas):
    replicas = make_replicas(values=THREE_RANGES, HE_AGG_FOLD_THREADS="1", HE_AGG_LEASE_S="600")
    replicas.serve(HE_AGG_WORK="0")
    round_id, prepared = replicas.next_round()
    replicas.submit(prepared)
    first = replicas.work()
    assert first.stop() == 0  # after the part under way; nobody would have its range for ten minutes otherwise
    second = replicas.work()
    replicas.check_sum(round_id, prepared)
    assert second.stop() == 0


def test_serving_processes_and_their_parent_die_at_any_time(make_replicas):
    chance = random.Random(seed_of("serving processes"))
    replicas = make_replicas()
    server = replicas.serve(HE_AGG_PROCESSES="2")
    done, killed = threading.Event(), []

    def kill():
        while not done.wait(chance.uniform(0.05, 0.4)):
            victims = children_of(server.pid) if server.pid else []
            if chance.random() < 0.2:
                server.kill()
                # The orphans end by themselves, and the address is free for the next.
                wait_for(lambda: is_free(server.url))
                server.start()
                killed.append("parent")
            elif victims:
                os.kill(chance.choice(victims), signal.SIGKILL)
                killed.append("child")

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        before = None
        while len(killed) < 8 or len(set(killed)) < 2:
            round_id, prepared = replicas.next_round(after=before)
            replicas.submit(prepared)
            replicas.check_sum(round_id, prepared)
            before = round_id
    finally:
        done.set()
        killer.join()
    wait_for(lambda: len(children_of(server.pid)) == 2)
    assert server.stop() == 0
    found = {line["message"] for line in replicas.failures()}
    assert found <= {"a serving process has ended; another one is started"}, found


def is_free(url):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(url.rpartition(":")[2])))
            probe.listen()
        except OSError:
            return False
        return True


def test_each_process_has_its_metrics_and_the_first_the_operators_page(make_replicas):
    replicas = make_replicas(HE_AGG_METRICS_PORT="0", HE_AGG_OPERATOR_PORT="0")
    server = replicas.serve(HE_AGG_PROCESSES="3")
    page, *metrics = [server.line() for _ in range(4)]
    assert page.startswith("operators' page, this link is good once: ")
    addresses = [line.removeprefix("metrics on ") for line in metrics]
    assert len(set(addresses)) == 3
    # Who comes again has the same port, and the first one a link of its own.
    first = min(children_of(server.pid))
    os.kill(first, signal.SIGTERM)
    assert server.line().startswith("operators' page, this link is good once: ")
    assert {httpx.get(address).status_code for address in addresses} == {200}
    assert server.stop() == 0


def test_all_processes_get_requests(make_replicas):
    replicas = make_replicas(HE_AGG_METRICS_PORT="0")
    server = replicas.serve(HE_AGG_PROCESSES="2")
    addresses = [server.line().removeprefix("metrics on ") for _ in range(2)]

    def answered():
        for _ in range(10):
            httpx.get(server.url + "/healthz")
        return all('he_agg_responses_total{status="200"}' in httpx.get(address).text for address in addresses)

    wait_for(answered)
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("work",), "`he-agg work` needs PostgreSQL"),
        (("serve", "--port", "0", "--no-work"), "--no-work leaves folding to `he-agg work`, which needs PostgreSQL"),
        (("serve", "--port", "0", "--processes", "2"), "2 serving processes need PostgreSQL"),
    ],
)
def test_more_than_one_process_needs_postgresql(tmp_path, words, message):
    run = he_agg(*words, "--data-dir", tmp_path / "data", check=False)
    assert run.returncode == 4
    assert message in run.stderr
    assert "pip install 'he-agg[postgres]'" in run.stderr
    assert "HE_AGG_DATABASE_URL=postgresql://" in run.stderr
    assert not (tmp_path / "data").exists()


def test_what_keeps_the_first_process_from_starting_is_said_once(tmp_path):
    url = "postgresql://nobody@127.0.0.1:1/none"
    run = he_agg("serve", "--port", "0", "--processes", "3", "--data-dir", tmp_path, "--database-url", url, check=False)
    assert run.returncode == 4
    assert run.stderr.count("he-agg: error: ") == 1
    assert "cannot use the database" in run.stderr
    assert run.stdout == ""


def test_a_newer_version_says_whether_this_one_may_run_beside_it(make_replicas):
    """What the next version writes when it is the first to start: that the tables are its own, and for whom else."""
    replicas = make_replicas()
    url = replicas.settings.database_url
    old = replicas.serve()

    def write(**numbers):
        with psycopg.connect(url, autocommit=True) as connection:
            for name, number in numbers.items():
                assert connection.execute("UPDATE meta SET number = %s WHERE name = %s", (number, name)).rowcount == 1

    write(schema=SCHEMA_VERSION + 1, oldest=SCHEMA_VERSION)
    # Side by side: the one that runs goes on, and may be started again.
    round_id, prepared = replicas.next_round()
    replicas.submit(prepared)
    old.kill()
    old.start()
    replicas.check_sum(round_id, prepared)
    write(oldest=SCHEMA_VERSION + 1)
    for command in ("serve", "work"):
        run = he_agg(command, "--data-dir", replicas.data_dir, "--database-url", url, check=False)
        assert run.returncode == 4
        assert f"got {SCHEMA_VERSION + 1}, which is for versions from {SCHEMA_VERSION + 1} on" in run.stderr
        assert "another version of he-agg has written it" in run.stderr
