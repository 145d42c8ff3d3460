"""Long polls: at once when there is news, in time when there is none, and never in the way of a shutdown."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from service.operator import operations
from tests.support.peers import operator, prepare


def timed(call):
    began = time.monotonic()
    return call(), time.monotonic() - began


def act(world, operation):
    """What an operator's command does: another connection to the same store."""
    with operator(world.server.data_dir) as (store, conductor):
        operation(store, conductor, world.name)


def test_answers_at_once_and_after_the_wait(world):
    answer, seconds = timed(lambda: world.peer().current(wait=20).json())
    assert (answer["stage"], answer["round_id"]) == ("running", world.round_id)
    assert seconds < 1
    answer, seconds = timed(lambda: world.peer().current(wait=20, after=f"{world.name}.9.9").json())
    assert (answer["round_id"], seconds < 1) == (world.round_id, True)
    answer, seconds = timed(lambda: world.peer().current(wait=0.7, after=world.round_id).json())
    assert answer["round_id"] == world.round_id
    assert 0.6 < seconds < 2
    answer, seconds = timed(lambda: world.peer().record(world.round_id, wait=0.7))
    assert answer.status_code == 204
    assert 0.6 < seconds < 2


def test_wakes_when_the_operator_starts_and_ends(make_world):
    world = make_world(start=False)
    assert world.peer().current().json()["stage"] == "created"
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(timed, lambda s=site: world.peer(s).current(wait=30).json()) for site in "abc"]
        time.sleep(0.3)
        act(world, operations.start)
        for answer, seconds in (future.result() for future in waiting):
            assert (answer["stage"], answer["round_id"]) == ("running", f"{world.name}.1.1")
            assert seconds < 3
        waiting = [pool.submit(timed, lambda: world.peer().current(wait=30, after=f"{world.name}.1.1").json())]
        time.sleep(0.3)
        act(world, operations.end)
        answer, seconds = waiting[0].result()
        assert answer["stage"] == "ended"
        assert seconds < 3


def test_wakes_when_the_round_is_published_and_the_next_opens(world):
    round_id = world.round_id
    with ThreadPoolExecutor(2) as pool:
        record = pool.submit(timed, lambda: world.peer("a").record(round_id, wait=30))
        current = pool.submit(timed, lambda: world.peer("b").current(wait=30, after=round_id).json())
        time.sleep(0.2)
        for i, site in enumerate("abc"):
            world.peer(site).submit(round_id, prepare(world.plan, round_id, site, i))
        (answer, seconds), (following, more_seconds) = record.result(), current.result()
    assert (answer.status_code, following["round_id"]) == (200, f"{world.name}.2.1")
    assert max(seconds, more_seconds) < 3


def test_a_shutdown_does_not_wait_for_polls(own_server, make_world):
    world = make_world(server=own_server)
    round_id, answers = world.round_id, []
    poller = threading.Thread(target=lambda: answers.append(world.peer().current(wait=60, after=round_id)))
    poller.start()
    time.sleep(0.4)
    code, seconds = timed(own_server.stop)
    poller.join(10)
    assert code == 0
    assert seconds < 5
    assert answers[0].json()["round_id"] == round_id
