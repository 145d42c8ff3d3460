"""Check what holders have signed, in a transcript: list, echoes, answers and complaints, each against its record.

After a published record whose plan splits keys come the sharing keys of the round's list, then echoes, answers and
complaints, each sorted by holder.
"""

from __future__ import annotations

from collections.abc import Mapping

from he_agg.audit.findings import Notes, RoundRow
from he_agg.documents.holding import Answer, Complaint, Echo
from he_agg.documents.record import PUBLISHED, RoundRecord
from he_agg.documents.roster import Role, Roster
from he_agg.documents.sharing import HolderList, SharingKey
from he_agg.documents.signed import Signed
from he_agg.errors import WireError, counted
from he_agg.sharing.decoding import liars
from he_agg.sharing.field import Elements
from he_agg.sharing.shares import read_answer

__all__ = ["KINDS", "HoldingChecks"]

Said = Signed[Echo] | Signed[Answer] | Signed[Complaint]

KINDS: Mapping[str, type[SharingKey] | type[Echo] | type[Answer] | type[Complaint]] = {
    kind.KIND: kind for kind in (SharingKey, Echo, Answer, Complaint)
}
"""In the order in which they follow a record."""


class HoldingChecks:
    """Checks what holders have signed about one record after the other.

    Args:
        splits: whether the plan splits keys.
        rosters: the trusted ones, by digest.
    """

    def __init__(self, notes: Notes, splits: bool, rosters: Mapping[str, Roster]) -> None:
        self._notes, self._find = notes, notes.find
        self._splits, self._rosters = splits, rosters
        self._record: Signed[RoundRecord] | None = None
        self._members: Mapping[str, str | None] = {}
        self._line = 0
        self._row: RoundRow | None = None
        self._keys: list[Signed[SharingKey]] = []
        self._said: dict[str, dict[tuple[str, str], Said]] = {}
        self._place = ("", "", "")
        self._certified: dict[int, str] = {}

    def begin(self, signed: Signed[RoundRecord], members: Mapping[str, str | None]) -> None:
        """Take a record up; what follows is about it.

        Args:
            members: what each member's manifest says under `holders`.
        """
        self.end()
        self._record, self._members, self._line = signed, members, self._notes.line
        self._row = self._notes.result.rounds[-1]
        self._keys, self._said, self._place = [], {kind: {} for kind in KINDS}, ("", "", "")

    def take(self, kind: str, line: bytes) -> None:
        """Check one document as far as it goes by itself.

        Raises:
            WireError: it is none of its kind.
        """
        signed: Signed[SharingKey] | Said = Signed.parse(KINDS[kind], line)  # type: ignore[assignment]
        body, record = signed.body, self._record
        if record is None or not self._splits or record.body.outcome != PUBLISHED:
            self._find("holding", f"{body.title} follows no published record of a plan that splits keys")
            return
        place = (str(list(KINDS).index(kind)), body.holder, body.dealer if isinstance(body, Complaint) else "")
        if place <= self._place:
            self._find("order", f"{body.title} is there twice, or out of order")
        self._place = place
        if isinstance(body, SharingKey):
            self._keys.append(signed)  # type: ignore[arg-type]
            return
        if body.record != record.digest or body.round_id != record.body.round_id:
            self._find("holding", f"{body.title} is not on the record before it")
            return
        self._said[kind][place[1:]] = signed  # type: ignore[assignment]

    def end(self) -> None:
        """Check what is there of a record once all of it has come."""
        signed, self._record, row = self._record, None, self._row
        if signed is None or row is None or not self._splits or signed.body.outcome != PUBLISHED:
            return
        record, roster = signed.body, self._rosters.get(signed.body.roster)
        what = f"record {record.index} of round {record.round_id}"
        if roster is None:
            return  # told already
        listed = self._listed(record, roster, what)
        self._drop_unsigned(roster.keys_of(Role.HOLDER))
        if listed is None:
            return
        echoed = {holder for holder, _ in self._said[Echo.KIND]}
        given = [one.body for one in self._said[Answer.KIND].values()]
        answers = {body.holder: body for body in given if isinstance(body, Answer)}
        did = {name: "answered" if name in answers else "echoed" for name in sorted(echoed | set(answers))}
        row.holders.update(did)
        if len(echoed) >= listed.thresholds.quorum:
            other = self._certified.setdefault(record.round_id.number, signed.digest)
            if other != signed.digest:
                self._find("certified", f"{what}: another record of this number has a quorum of echoes too", self._line)
        elif answers:
            text = f"{counted(len(answers), 'answer')} and a quorum of {listed.thresholds.quorum} echoes is not there"
            self._find("quorum", f"{what}: {text}: {len(echoed)}", self._line)
        self._check_answers(answers, listed, what)

    def _drop_unsigned(self, keys: Mapping[str, bytes]) -> None:
        """Have nothing count that no holder of the roster has signed."""
        for by_holder in self._said.values():
            for place, said in list(by_holder.items()):
                if not said.signers(keys):  # a document of a holder has one signature, the holder's
                    self._find("holding", f"{said.body.title} is not signed by a holder of its roster", self._line)
                    del by_holder[place]

    def _listed(self, record: RoundRecord, roster: Roster, what: str) -> HolderList | None:
        try:
            listed = HolderList.of(Signed(roster), record.epoch, self._keys)
        except WireError as error:
            self._find("holders", f"{what}: {error.message}", self._line)
            return None
        if not listed.is_ready:
            text = f"{what}: its list of holders has {counted(len(listed.keys), 'sharing key')}"
            self._find("holders", f"{text}, and {listed.thresholds.quorum} are needed", self._line)
        for site, digest in sorted(self._members.items()):
            if digest != listed.digest:
                text = f"{what}: site {site} has dealt to another list of holders than the one whose keys are there"
                self._find("holders", text, self._line)
        return listed

    def _check_answers(self, answers: Mapping[str, Answer], listed: HolderList, what: str) -> None:
        """Check that all answers lie on one polynomial, as those of honest holders do; who sums, sees more."""
        rows: dict[int, Elements] = {}
        for name, answer in answers.items():
            if name not in listed.names:
                continue
            try:
                rows[listed.holders.index(name)] = read_answer(answer.shares)
            except WireError as error:
                self._find("answers", f"{answer.title}: {error.message}", self._line)
        wrong = liars(rows, listed.thresholds.threshold) if len(rows) > listed.thresholds.threshold else ()
        if wrong != ():
            names = "some, nobody can tell whose" if wrong is None else ", ".join(listed.names[i - 1] for i in wrong)
            self._find("answers", f"{what}: answers of its holders are wrong: {names}", self._line)
