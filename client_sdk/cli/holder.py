"""Commands of a trustee, a holder that is no site: `he-agg holder join|run`."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import click

from client_sdk._net.server import TlsFiles
from client_sdk._net.transport import Transport
from client_sdk._protocol.session import Trustee, open_trustee
from client_sdk._protocol.trustee import hold_until_end
from client_sdk.cli.folder import (
    CERTIFICATE,
    PATIENCE_S,
    ROSTER,
    check_folder,
    check_settings,
    follow_from,
    write_settings,
)
from client_sdk.config import TrusteeSettings
from client_sdk.lines import Lines
from client_sdk.progress import Event, Notice, Waits
from he_agg.documents.roster import Role, Roster
from he_agg.documents.start import Start
from he_agg.errors import InputError, ProtocolError, Reason
from he_agg.host.commands import FILE, answer, json_option
from he_agg.host.comparing import fingerprint_option, heard_of
from he_agg.host.shell import quoted
from keys.cli.identity import Own, ask_passphrase, own_identity
from keys.cli.options import PassphraseOptions, new_passphrase_options
from keys.cli.roster import accept_rosters
from keys.files import read_document, replace_file
from keys.hardening import harden_command
from keys.pinning import check_self, read_pinned

__all__ = ["holder_join", "holder_run"]

SETTINGS = Path("holder.toml")


@click.command("join")
@click.argument("start_file", metavar="START", type=FILE)
@click.option("--name", help="This trustee. [default: that of the one identity file here, made if there is none]")
@fingerprint_option
@click.option("--url", help="Another way to the aggregator than the start file says, such as a proxy of this house.")
@new_passphrase_options
@json_option
def holder_join(
    passphrases: PassphraseOptions,
    start_file: Path,
    name: str | None,
    fingerprints: tuple[str, ...],
    url: str | None,
    protect: bool | None,
    as_json: bool,
) -> None:
    """Join the federation of a START file as a trustee, who holds shares and sees no update. Running it again is fine.

    Compares the coordinators' fingerprints, accepts the roster, keeps the public half of the plan, and writes
    holder.toml. A site needs none of this: it holds by itself.
    """
    start = read_document(start_file, Start.parse, "a usable start file")
    if not start.document.plan.splits_keys:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"federation {start.federation} shares one key among its sites: it has no holders",
            "a plan with holders is made with `he-agg found --keys split`",
        )
    heard = heard_of(fingerprints)
    check_folder(start, SETTINGS)
    own = own_identity(name, protect, passphrases)
    plan = Path(f"{start.federation}.federation.json")
    settings = {
        "url": url or start.address.body.url,
        "identity": str(own.path),
        "plan": str(plan),
        "roster": str(ROSTER),
        **({"ca_file": str(CERTIFICATE)} if start.address.body.certificate else {}),
    }
    check_settings(start, settings, SETTINGS, TrusteeSettings)
    listed = own.identity.name in start.roster.body.members
    if listed:
        _check_holder(start.roster.body, own)
    accept_rosters(
        ROSTER, [start.roster] if not ROSTER.exists() else [], heard, own.identity.member() if listed else None
    )
    if not plan.exists():
        replace_file(plan, start.document.encode())
    write_settings(start, settings, SETTINGS)
    if not listed:
        _follow(own, start_file)
        _check_holder(read_pinned(ROSTER).body, own)
    facts = {
        "federation": start.federation,
        "holder": own.identity.name,
        "config": str(SETTINGS),
        "roster": str(ROSTER),
    }
    answer(
        facts,
        as_json,
        lambda: (
            f"{own.identity.name} is a holder of {start.federation}; settings: {SETTINGS}\n"
            f"next, and to be left running: `he-agg holder run --config {quoted(SETTINGS)}`"
        ),
    )


def _follow(own: Own, start_file: Path) -> None:
    """Accept the rosters after the one of the start file, of which one may list this trustee."""
    name, loaded = own.identity.name, TrusteeSettings.load(SETTINGS, {})
    try:
        follow_from(dataclasses.replace(loaded, patience_s=PATIENCE_S), own)
    except ProtocolError as error:
        if error.reason not in (Reason.UNAUTHENTICATED, Reason.UNKNOWN_SITE, Reason.FORBIDDEN):
            raise
        raise ProtocolError(
            error.reason,
            error.message,
            f"{name} is not in the roster of the federation yet: send {name}.public.json to the coordinator, who takes "
            f"it in (`he-agg roster next`) and calls you for {own.identity.fingerprint}; then type the same again: "
            f"`he-agg holder join {quoted(start_file)}`",
        ) from error


def _check_holder(roster: Roster, own: Own) -> None:
    check_self(roster, own.identity, Role.HOLDER)
    if Role.SITE in roster.members[own.identity.name].roles:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"{own.identity.name} is a site of {roster.federation}, and holds wherever it waits for a round",
            "a site joins with `he-agg join START`",
        )


@click.command("run")
@click.option("--config", type=FILE, required=True, help="The trustee's TOML file: url, identity, plan, roster.")
def holder_run(config: Path) -> None:
    """Hold until the federation ends: make a sharing key for each epoch, check each sum's record, and answer for it.

    To be left running, also on a machine that starts it again. Ctrl-C ends it; what was promised is kept.
    """
    harden_command()
    settings = TrusteeSettings.load(config, {})
    session = open_trustee(settings, ask_passphrase)
    tls = TlsFiles(settings.ca_file, settings.client_cert, settings.client_key)
    with contextlib.closing(Transport(settings.url, session.signer, tls)) as transport:
        _say(f"{session.site} holds for {session.federation}, at {settings.url}")
        try:
            transport.run(hold_until_end(session), _Told())
        except KeyboardInterrupt:
            _say(_stopped(session))
        else:
            _say(f"federation {session.federation} has ended; nothing is held any more")


def _stopped(session: Trustee) -> str:
    return f"stopped; {session.site} answers for no sum until it runs again, and keeps what it has promised"


class _Told(Lines):
    """Prints what a trustee did on stdout, a sentence each; what does not answer on stderr."""

    def __init__(self) -> None:
        super().__init__(only_retries=True)

    def __call__(self, event: Event) -> None:
        """Print what is worth a line."""
        super().__call__(event)
        if isinstance(event, Notice | Waits):
            _say(event.text)


def _say(text: str) -> None:
    print(text, flush=True)
