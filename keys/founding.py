"""Found a federation, as its coordinator does: from public files to a start file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from he_agg.documents.address import Address
from he_agg.documents.public_file import PublicFile
from he_agg.documents.roster import Member, Role, Roster
from he_agg.documents.signed import Signed
from he_agg.documents.start import Start
from he_agg.errors import InputError, Reason, counted
from he_agg.plan.plan import Plan
from keys.ceremony import deal, install
from keys.files import write_new
from keys.group_key import GroupKey
from keys.identity import Identity
from keys.public_file import read_public_file
from keys.sealed_box import Passphrase

__all__ = ["MOST_HOLDING_SITES", "Founders", "deal_start"]

MOST_HOLDING_SITES = 31
"""Up to so many all sites are holders, if nobody says which."""


@dataclass(frozen=True)
class Founders:
    """Who founds a federation.

    Attributes:
        sites: all hospitals, the coordinator's own included.
        aggregator: its public file, with its address if it says so.
        trustees: holders that are no sites.
    """

    sites: Sequence[Member]
    aggregator: PublicFile
    trustees: Sequence[Member] = ()

    @classmethod
    def read(cls, files: Sequence[Path], own: Member, trustees: Sequence[Path] = ()) -> Founders:
        """Read public files. Whoever nothing can be sealed to is the aggregator; all others but trustees are sites.

        Args:
            own: the coordinator, whose file may be among them.
            trustees: files of those, which may be among them as well.

        Raises:
            InputError: no aggregator or several, or another key under the coordinator's name.
        """
        read = {path: read_public_file(path) for path in files}
        aggregators = [file for file in read.values() if file.member.receiving is None]
        if len(aggregators) != 1:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"expected the public file of one aggregator, got {len(aggregators)}",
                "its operator sends aggregator.public.json, which `he-agg serve --url https://HOST:PORT` writes",
            )
        outsiders = {member.name: member for member in (read_public_file(path).member for path in trustees)}
        sites = {own.name: own}
        for path, file in read.items():
            member = file.member
            if member.receiving is None or outsiders.get(member.name) == member:
                continue
            if sites.setdefault(member.name, member) != member:
                raise InputError(
                    Reason.KEY_MISMATCH,
                    f"{path}: {member.name} comes twice, with different keys",
                    "give one public file for each member; this machine's own is not needed",
                )
        if both := sorted(outsiders.keys() & sites.keys()):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"{', '.join(both)}: expected a trustee that is no site, got one that is",
                "sites hold shares without --holder",
            )
        return cls(
            [sites[name] for name in sorted(sites)], aggregators[0], [outsiders[name] for name in sorted(outsiders)]
        )

    def roles(
        self, coordinators: Sequence[str], splits_keys: bool = False, committee: Sequence[str] = ()
    ) -> Mapping[Role, Sequence[Member]]:
        """Say who has which role.

        Args:
            coordinators: names of the sites that sign rosters.
            splits_keys: whether there are holders: the trustees, and with them all sites.
            committee: names of the sites that are holders instead of all.
        """
        by_name = {member.name: member for member in self.sites}
        for what, names in (("coordinators", coordinators), ("holders", committee)):
            if unknown := sorted(set(names) - set(by_name)):
                raise InputError(
                    Reason.UNKNOWN_SITE,
                    f"expected {what} out of {', '.join(by_name)}, got {', '.join(unknown)}",
                    "give the public file of each",
                )
        signing = [by_name[name] for name in dict.fromkeys(coordinators)]
        roles = {Role.SITE: self.sites, Role.COORDINATOR: signing, Role.AGGREGATOR: [self.aggregator.member]}
        if not splits_keys:
            return roles
        if not committee and len(self.sites) > MOST_HOLDING_SITES:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"expected at most {MOST_HOLDING_SITES} sites that are all holders, got "
                f"{counted(len(self.sites), 'site')}",
                "every holder works for every site: name 5 or 7 that do it for all, --holders NAME,NAME,...",
            )
        holding = [by_name[name] for name in dict.fromkeys(committee)] or list(self.sites)
        return {**roles, Role.HOLDER: [*holding, *self.trustees]}


def deal_start(
    plan: Plan,
    roster: Signed[Roster],
    dealer: Identity,
    address: Signed[Address],
    start_file: Path,
    keystore: Path,
    now: float,
    protect: Passphrase,
) -> tuple[Start, GroupKey]:
    """Make the first group key, seal it to every site, and write the start file and the dealer's keystore, or neither.

    Args:
        roster: signed by enough coordinators.
        address: signed by the aggregator or a coordinator.
        protect: protects the keystore. None: only its permissions do.
    """
    key = GroupKey.create(plan)
    start = Start(address, roster, key.federation_document, deal(key, roster, dealer, now))
    content = start.encode()
    # What members will read must be what they accept.
    Start.parse(content)
    write_new(start_file, content)
    try:
        install(key, keystore, None, protect)
    except BaseException:
        start_file.unlink(missing_ok=True)
        raise
    return start, key
