"""kill -9 of real holders, a site and two trustees, between any two steps: each answers for one record, once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
from functools import partial

import pytest

from client_sdk import Site
from client_sdk._disk.promises import Promises
from client_sdk._disk.spool import Spool
from he_agg.documents.holding import Answer, Echo
from he_agg.documents.signed import Signed
from he_agg.ids import RoundId
from tests.support.flows import assert_mean_of
from tests.support.peers import operator
from tests.support.real import SITES, in_threads
from tests.support.seeds import seed_of

HOLDERS = (SITES[0], "trustee-1", "trustee-2")
"""All three have to echo, and all three to answer: whoever was killed is waited for."""
MOMENTS = ("promised", "echoed", "seen by enough", "answer kept")
PATIENCE_S = 60

MORTAL = f"""
    import contextlib, os, signal, sys
    from client_sdk import Site
    from client_sdk._disk.promises import Promises
    from client_sdk._net.transport import Transport
    from client_sdk._protocol import hold, trustee
    from client_sdk._protocol.session import open_trustee
    from client_sdk.config import TrusteeSettings
    from he_agg.errors import ProtocolError

    config, moment = sys.argv[1:]

    def passed(now):
        if now == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    make, keep, await_echoes, send = Promises.make, Promises.keep_answer, hold._await_echoes, hold._send

    def making(*arguments):
        make(*arguments)
        passed("promised")

    def keeping(*arguments):
        keep(*arguments)
        passed("answer kept")

    def awaiting(*arguments):
        passed("echoed")
        yield from await_echoes(*arguments)
        passed("seen by enough")

    def sending(session, round_id, where, encoded):
        yield from send(session, round_id, where, encoded)
        if where.startswith("answers"):
            passed("answered")

    Promises.make, Promises.keep_answer, hold._await_echoes, hold._send = making, keeping, awaiting, sending
    if config.endswith("site.toml"):
        with Site.open(config, progress=False, patience_s={PATIENCE_S}, result_s={PATIENCE_S}) as site:
            site.fetch()
    else:
        settings = TrusteeSettings.load(config, {{}})
        session = open_trustee(settings)
        with contextlib.closing(Transport(settings.url, session.signer)) as way:
            way.run(trustee.hold_until_end(session), lambda event: None)
"""


def live_on(federation, deaths: dict[str, list[str]], name: str) -> None:
    """Run a holder until it has died all these deaths; a site then goes on until it has opened the sum."""
    config = federation.directory(name) / ("site.toml" if name in SITES else "holder.toml")
    for moment in (*deaths[name], "") if name in SITES else deaths[name]:
        words = [sys.executable, "-c", textwrap.dedent(MORTAL), str(config), moment]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=3 * PATIENCE_S, check=False)
        assert ended.returncode == (-signal.SIGKILL if moment else 0), f"{name}, {moment}: {ended.stderr}"


def said(federation, round_id: RoundId, what: str, name: str) -> bytes:
    with operator(federation.server.data_dir) as (store, _), store.read() as tx:
        return getattr(tx, what)(round_id, name)


@pytest.mark.parametrize("rounds", [pytest.param(1, id="quick"), pytest.param(10, id="soak", marks=pytest.mark.slow)])
def test_holders_that_are_killed_between_any_two_steps_answer_once(federate, rounds):
    chance = random.Random(seed_of("killed holders"))
    trustees = HOLDERS[1:]
    federation = federate(rounds=rounds, codec="hybrid", keys="split", min_sites=3, holders=HOLDERS, start=False)
    for name in trustees:
        federation.trustee_looks(name)
    federation.start_with_all_keys()
    for number in range(1, rounds + 1):

        def submit(name, number=number):
            with Site.open(federation.config(name)) as site:
                update = federation.update(name, number)
                next(iter(site.rounds())).submit(update.tensors, update.weight)

        in_threads(submit)
        # Each holder dies once or more, in the order of the moments; trustees again when they have answered.
        each = rounds > 1 and chance.randint(1, len(MOMENTS))
        deaths = {name: sorted(chance.sample(MOMENTS, each or 1), key=MOMENTS.index) for name in HOLDERS}
        for name in trustees:
            deaths[name].append("answered")
        round_id = RoundId(federation.name, number, 1)
        in_threads(partial(live_on, federation, deaths), HOLDERS)
        for name in HOLDERS:
            echo = Signed.parse(Echo, said(federation, round_id, "echo", name)).body
            answer = said(federation, round_id, "answer", name)
            spool = Spool(federation.directory(name) / "spool", name)
            promises = Promises(spool.promises_path(federation.name), spool.answers_path(federation.name))
            promised = promises.of(number)
            assert promised is not None
            assert promised.record == echo.record == Signed.parse(Answer, answer).body.record
            assert promises.answer(round_id) == answer, "another answer was sent than was kept"
        for name in SITES:
            with Site.open(federation.config(name)) as site:
                mean = site.fetch(str(round_id))
            assert_mean_of(mean, federation.plan, [federation.update(one, number) for one in SITES])
