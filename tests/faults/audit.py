"""The six invariants of the aggregator, checked from outside: raw SQL and files, none of its own code but signatures.

* A receipt implies that its submission is in the sum, or that its attempt failed for another reason than its absence.
* The sum is the sum of the parts of the closed set, added up again here, from what the sites sent.
* In each attempt each site is at most once.
* The record and the sum of a round that has ended never change.
* Records are a chain without gaps: indexes from 1 in the order in which rounds ended, each with the digest of the one
  before, each signed by the aggregator of the roster; and so is every receipt.
* A federation has ended at most once, by the last record of its chain.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from he_agg import Plan
from he_agg.audit.evidence import broken_by
from he_agg.documents.record import RoundRecord
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.protocol.messages import Receipt
from tests.support.peers import Prepared, expected_sum, known_roster, read_part


class Audit:
    """Remembers everything that has been promised, and checks that it is kept."""

    def __init__(self, data_dir: Path, plan: Plan, keep_sums: int = 10**6) -> None:
        self._data_dir = data_dir
        self._read: dict[tuple[type, bytes], str] = {}
        """What each signed document says whose signature has been seen to be right."""
        self._parsed: dict[str, dict[str, Any]] = {}
        self._honoured: set[tuple[str, str]] = set()
        """Which receipts have been seen to be in which records. The same two are so after every step."""
        self._keep_sums = keep_sums
        self._plan = plan
        self.sent: dict[str, Prepared] = {}
        """Every submission that any site ever sent, by id."""
        self.receipts: dict[str, dict[str, Any]] = {}
        """Every receipt, by submission id."""
        self._records: dict[str, str] = {}
        self._sums: dict[str, dict[str, str]] = {}

    def receipt(self, body: bytes) -> None:
        """A receipt was given: from now on it is to be honoured, and never to differ."""
        receipt = json.loads(self._body(body, Receipt))
        assert self.receipts.setdefault(receipt["id"], receipt) == receipt, "a second, different receipt"

    def check(self) -> None:
        with contextlib.closing(sqlite3.connect(self._data_dir / "aggregator.sqlite3")) as db:
            undecided = db.execute(
                "SELECT s.id FROM submissions s JOIN rounds r ON r.id = s.round_id"
                " WHERE s.state = 'open' AND r.phase <> 'open'"
            ).fetchall()
            states = dict(db.execute("SELECT digest, state FROM submissions WHERE digest IS NOT NULL"))
            twice = db.execute("SELECT round_id, site FROM submissions GROUP BY 1, 2 HAVING COUNT(*) > 1").fetchall()
            signed = db.execute(
                "SELECT id, record FROM rounds WHERE record IS NOT NULL ORDER BY chain_index"
            ).fetchall()
            order = "ORDER BY chain_index IS NULL, chain_index"
            indexes = db.execute(f"SELECT id, chain_index FROM rounds {order}").fetchall()
        assert not undecided, "a round has closed, and a submission is neither in nor out"
        assert not twice, f"a site is in a round twice: {twice}"
        self._check_chain(signed, indexes)
        records = {round_id: self._body(record, RoundRecord) for round_id, record in signed}
        for round_id, record in records.items():
            assert self._records.setdefault(round_id, record) == record, f"the record of {round_id} has changed"
        assert records.keys() >= self._records.keys(), "a record is gone"
        ends = [round_id for round_id, record in records.items() if self._record(record)["outcome"] == "ended"]
        assert ends in ([], [round_id for round_id, _ in signed][-1:]), "an end is not the last record, or not alone"
        for receipt in self.receipts.values():
            self._check_receipt(receipt, states)
        parsed = [self._record(record) for record in records.values()]  # as the chain has them
        digests = {round_id: hashlib.sha256(document).hexdigest() for round_id, document in signed}
        given_up = {record["gives_up"] for record in parsed}
        published = [record for record in parsed if record["outcome"] == "published"]
        for record in published[: -self._keep_sums]:
            seen = _name(record) in self._sums or digests[_name(record)] in given_up
            assert seen, "the sum of a round went unseen"
        for record in published[-self._keep_sums :]:
            if digests[_name(record)] not in given_up:
                self._check_sum(_name(record), record)
        assert not any(record["members"] for record in parsed if record["outcome"] != "published")

    def _body(self, document: bytes, kind: type[Receipt | RoundRecord]) -> str:
        """What a signed document says, once its signature has been seen to be right."""
        said = self._read.get((kind, document))
        if said is None:  # the same bytes say the same after every step
            parsed: Signed[Any] = Signed.parse(kind, document)
            roster = known_roster(self._plan.public.federation)
            assert parsed.signers(roster.keys_of(Role.AGGREGATOR)), f"no aggregator has signed this {kind.KIND}"
            said = self._read[kind, document] = json.dumps(json.loads(document)["body"])
        return said

    def _record(self, said: str) -> Any:
        if said not in self._parsed:
            self._parsed[said] = json.loads(said)
        return self._parsed[said]

    def _check_chain(self, signed: list[tuple[str, bytes]], indexes: list[tuple[str, int | None]]) -> None:
        previous = "0" * 64
        for index, (round_id, document) in enumerate(signed, 1):
            record = self._record(self._body(document, RoundRecord))
            assert (record["index"], record["previous"]) == (index, previous), f"{round_id} breaks the chain"
            assert _name(record) == round_id
            assert (round_id, index) == indexes[index - 1], "the row says something else than the record"
            previous = hashlib.sha256(document).hexdigest()
        assert [index for _, index in indexes[len(signed) :]] == [None] * (len(indexes) - len(signed))

    def _check_receipt(self, receipt: dict[str, Any], states: dict[str, str]) -> None:
        round_id, site, submission_id = receipt["round_id"], receipt["site"], receipt["id"]
        record = self._records.get(round_id)
        if record is None:
            assert states.get(submission_id) == "complete", f"the receipt of {site} for {round_id} is not honoured"
            return
        if (submission_id, record) not in self._honoured:
            how = broken_by(Receipt.from_json(receipt), RoundRecord.from_json(json.loads(record)))
            assert how is None, f"{site} has a receipt for {round_id}, whose record {how}"
            self._honoured.add((submission_id, record))

    def _check_sum(self, round_id: str, record: dict[str, Any]) -> None:
        paths = sorted((self._data_dir / "rounds" / round_id / "sum").glob("*.part"))
        assert not record["members"].keys() & record["excluded"].keys()
        contents = {path.name: path.read_bytes() for path in paths}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        places = self._plan.public.places
        assert [digests[f"{place.number}.part"] for place in places] == record["sum"], "not the sum of the record"
        if round_id in self._sums:
            assert self._sums[round_id] == digests, f"the sum of {round_id} has changed"
            return
        self._sums[round_id] = digests
        members = [self.sent[submission_id] for submission_id in record["members"].values()]
        expected = expected_sum(self._plan, members)
        got = [read_part(self._plan, place.number, contents[f"{place.number}.part"]) for place in places]
        assert max(int(values.max()) for values in got) <= 1, "a submission was counted twice"
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def _name(record: dict[str, Any]) -> str:
    return f"{record['federation']}.{record['round']}.{record['attempt']}"
