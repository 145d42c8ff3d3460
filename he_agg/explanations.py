"""Say of every reason what it means, and what to do. `he-agg explain` and the reference's page show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from he_agg.errors import Reason

__all__ = ["EXPLANATIONS", "Explanation"]


class Explanation(NamedTuple):
    """What a reason means, and what to do. Sentences without a capital and a full stop, in Markdown."""

    means: str
    to_do: str


EXPLANATIONS: Mapping[Reason, Explanation] = {
    Reason.NON_FINITE: Explanation(
        "an update has NaN or infinity in it",
        "look for a diverged loss or an empty batch in the local training",
    ),
    Reason.BEYOND_CLIP: Explanation(
        "an entry of an update is larger than the plan's clip bound",
        'clip the update, pass `on_overflow="clip"`, or found a federation with a wider bound',
    ),
    Reason.MISSING_TENSOR: Explanation(
        "a tensor of the plan was not handed in",
        "hand in every tensor that `he-agg plan show` lists",
    ),
    Reason.EXTRA_TENSOR: Explanation(
        "a tensor was handed in that the plan does not have",
        "leave it out, or found a federation whose plan has it",
    ),
    Reason.WRONG_SHAPE: Explanation(
        "an array has another shape than it must",
        "compare with `he-agg plan show`: another model, or another version of it",
    ),
    Reason.WRONG_DTYPE: Explanation(
        "an array has another dtype than it must",
        "convert it, if that loses nothing that is needed",
    ),
    Reason.WEIGHT_OUT_OF_RANGE: Explanation(
        "a weight is no whole number from 1 to the plan's weight cap",
        "the weight is the number of samples; a site without samples takes no part in the round",
    ),
    Reason.BAD_ARGUMENT: Explanation(
        "a number or a name is out of its range",
        "the message says what was expected",
    ),
    Reason.INSECURE_PARAMETERS: Explanation(
        "a plan whose parameters are not secure",
        "tell the coordinator, who makes another plan",
    ),
    Reason.NO_HEADROOM: Explanation(
        "more sites, or larger weights, than the plan's sums can hold",
        "a new plan, and so a new federation",
    ),
    Reason.BAD_PLAN: Explanation(
        "a plan or a federation file that makes no sense",
        "tell the coordinator",
    ),
    Reason.PLAN_MISMATCH: Explanation(
        "made for another plan",
        "compare federation and keystore: the site needs the keystore of this federation",
    ),
    Reason.LAYOUT_MISMATCH: Explanation(
        "the tensors are not those that the plan was made for",
        "ask the coordinator for the plan of this federation, and compare the models",
    ),
    Reason.TRUNCATED: Explanation(
        "shorter than it must be: a part of the plan, a document, a file",
        "another plan at the client, a broken line, or a file that was cut",
    ),
    Reason.TRAILING_BYTES: Explanation(
        "longer than it must be: a part of the plan, a document, a file",
        "another plan at the client, or another file than was meant",
    ),
    Reason.BAD_MAGIC: Explanation(
        "not a part, or not a file of this kind",
        "another client program, or another file than was meant",
    ),
    Reason.BAD_VERSION: Explanation(
        "a part, document or file of another version",
        "upgrade the older side",
    ),
    Reason.BAD_FIELD: Explanation(
        "a field is not what it must be",
        "the message names it; another program or version at the other end",
    ),
    Reason.BAD_PADDING: Explanation(
        "bits that must be zero are not",
        "another client program",
    ),
    Reason.BAD_DIGEST: Explanation(
        "bytes changed on the way, or are not the manifest's",
        "the client sends again; if it stays, look for a proxy that changes bodies",
    ),
    Reason.RESIDUE_OUT_OF_RANGE: Explanation(
        "a number not below its modulus",
        "a broken or hostile client; nothing was stored",
    ),
    Reason.TOO_LARGE: Explanation(
        "longer than the plan's part, or than a manifest may be",
        "another plan at the client",
    ),
    Reason.NOT_CANONICAL: Explanation(
        "JSON in another form",
        "another client program, or a file that was edited",
    ),
    Reason.SECRET_REFUSED: Explanation(
        "a key was sent to the aggregator; it was neither stored nor logged",
        "tell the coordinator: a new group key may be needed",
    ),
    Reason.KEY_MISMATCH: Explanation(
        "made under another group key",
        "`he-agg epoch accept --config site.toml` at the site",
    ),
    Reason.NOT_MY_EPOCH: Explanation(
        "this site has no keystore of the epoch that a sum, or the federation, is of",
        "`he-agg epoch accept --config site.toml`, or the old keystore from backup beside the new one",
    ),
    Reason.UNSAFE_PERMISSIONS: Explanation(
        "others may read or change a secret file, or it is no regular file of the process's user",
        "the message names the file and what is wrong with it; if anybody may have read it, make a new one",
    ),
    Reason.KEYSTORE_CORRUPT: Explanation(
        "a key or identity file does not hold what it must",
        "restore it from backup; a keystore comes anew by `he-agg epoch accept --config site.toml`",
    ),
    Reason.WRONG_PASSPHRASE: Explanation(
        "the passphrase does not open the file, or there is none",
        "give the right one: at the terminal, by `--passphrase-fd`, or by `passphrase_file` in the settings",
    ),
    Reason.FILE_MISSING: Explanation(
        "a file that must be there is not",
        "the message names it, at the aggregator the log: restore it",
    ),
    Reason.FILE_EXISTS: Explanation(
        "a file is in the way, and is not overwritten",
        "move it away, or name another one",
    ),
    Reason.BAD_SIGNATURE: Explanation(
        "a document is not signed by whom it should be; 401 if it is the request itself",
        "a proxy that changes path, query or digest, another key than the roster lists, or a forgery: "
        "compare fingerprints",
    ),
    Reason.CLOCK_SKEW: Explanation(
        "signed more than five minutes before or after the aggregator's time (`server_time`)",
        "NTP at the site, and at the aggregator",
    ),
    Reason.ROSTER_EXPIRED: Explanation(
        "the newest roster has expired, or there is none",
        "the coordinator signs the next version; `he-agg federation roster FEDERATION roster.json`",
    ),
    Reason.ROSTER_MISMATCH: Explanation(
        "made for another version of the roster, or a roster without this aggregator's key; 409 if it is "
        "not the next version",
        "fetch the newest roster; `he-agg aggregator show`",
    ),
    Reason.NOT_YET_MEMBER: Explanation(
        "the sum is of a round that opened before this site joined",
        "nothing: another site has what came of the round",
    ),
    Reason.NO_LONGER_MEMBER: Explanation(
        "the coordinators' newest roster does not list this site any more; what it opened so far stays",
        "ask a coordinator",
    ),
    Reason.CHAIN_MISMATCH: Explanation(
        "the site's last record is not the one that the aggregator has",
        "after the aggregator was restored see docs/restore.md; otherwise take it seriously: two histories were told",
    ),
    Reason.RECEIPT_BROKEN: Explanation(
        "the aggregator has signed a receipt for a submission, and a record that leaves it out. This is an alarm",
        "stop, and call the coordinator: `he-agg evidence export` writes both signed documents",
    ),
    Reason.REPEATED_UPDATE: Explanation(
        "this very update is in a sum, or may be, already; nothing was encrypted",
        "train on; if the same numbers have come out again on purpose, `may_repeat=True` or `--may-repeat`",
    ),
    Reason.SUM_REJECTED: Explanation(
        "a sum is not what honest members and an honest aggregator make; nothing was released. This is an alarm",
        "stop, and call the coordinator; the security log of the site says which check failed",
    ),
    Reason.OFF_GRID: Explanation(
        "a sum did not open to whole numbers: another key, or bytes that are no sum",
        "compare the keystore's epoch with the other sites', then call the coordinator",
    ),
    Reason.SUM_OUT_OF_RANGE: Explanation(
        "a sum opened to numbers that honest sites cannot make",
        "call the coordinator: a site's values were beyond its weight times the clip bound",
    ),
    Reason.COUNT_MISMATCH: Explanation(
        "a sum is of another number of submissions than its record says",
        "call the coordinator",
    ),
    Reason.UNAUTHENTICATED: Explanation(
        "not signed in the form of PROTOCOL.md, or not by a member of the newest roster",
        "another client program, or a proxy that drops fields",
    ),
    Reason.FORBIDDEN: Explanation(
        "not the caller's role, or one site speaks in the name of another",
        "a mixed-up configuration at the member, or an attempt",
    ),
    Reason.UNKNOWN_FEDERATION: Explanation(
        "no such federation, or not the caller's",
        "check the name in the site's settings",
    ),
    Reason.UNKNOWN_SITE: Explanation(
        "the roster has no member of this name",
        "compare the name with `he-agg roster verify`",
    ),
    Reason.UNKNOWN_ROUND: Explanation(
        "no such round, or another federation's",
        "check the id; after the aggregator was restored see docs/restore.md",
    ),
    Reason.UNKNOWN_ROSTER: Explanation(
        "the aggregator has no such version of the roster",
        "the coordinator sends the version that is missing",
    ),
    Reason.UNKNOWN_EPOCH: Explanation(
        "no such epoch, or it came without a bundle",
        "the coordinator sends the bundle: `he-agg federation epoch`",
    ),
    Reason.UNKNOWN_SUBMISSION: Explanation(
        "not here, or not any longer, or another site's",
        "the client sends it again by itself; after the aggregator was restored see docs/restore.md",
    ),
    Reason.UNKNOWN_PART: Explanation(
        "no such part in the plan",
        "client and aggregator have different plans",
    ),
    Reason.ALREADY_EXISTS: Explanation(
        "it is there already, with other contents",
        "choose another name; what members sign once, verdicts and echoes for instance, stays as it came first",
    ),
    Reason.NOT_INVITED: Explanation(
        "registered after the round opened, or not drawn",
        "the site waits for the next round",
    ),
    Reason.ROUND_CLOSED: Explanation(
        "too late: the round closed",
        "nothing; a longer deadline if it happens often",
    ),
    Reason.ROUND_FAILED: Explanation(
        "the attempt failed and has no sum",
        "nothing; the next attempt is open. `he-agg federation show` says who was missing",
    ),
    Reason.SECOND_SUBMISSION: Explanation(
        "the site encrypted again for the same attempt",
        "the site lost its spool: it takes part again in the next round",
    ),
    Reason.INCOMPLETE: Explanation(
        "completed before all parts, or the dealing, were sent",
        "the client sends what is missing by itself",
    ),
    Reason.SUM_NOT_READY: Explanation(
        "the round is not published yet, or too few of its holders have seen its record",
        "wait; if folding fails, the log says why",
    ),
    Reason.SUM_GONE: Explanation(
        "older than `keep_sums` rounds",
        "fetch a newer one; keep more if sites are away for longer",
    ),
    Reason.BUSY: Explanation(
        "the aggregator has too many requests, or the member as many as are free; or its database is locked or away",
        "the client waits by itself; if it stays: connections, `ulimit -n`, the database",
    ),
    Reason.TOO_MANY_REQUESTS: Explanation(
        "the member has `max_site_requests` (32) requests under way",
        "the client waits by itself; look for one that runs many times",
    ),
    Reason.TOO_SLOW: Explanation(
        "a body came below `min_rate`",
        "the client sends again; for a slow line lower `min_rate` or the plan's part length",
    ),
    Reason.STORAGE_FULL: Explanation(
        "less than `reserve_bytes` would be left, or the disk is full",
        "make room: what has a receipt is not affected, and clients wait for five minutes",
    ),
    Reason.QUOTA_EXCEEDED: Explanation(
        "more bytes than `federation_quota_bytes` or `site_quota_bytes`",
        "raise it, or keep fewer sums and submissions",
    ),
    Reason.LENGTH_REQUIRED: Explanation(
        "no Content-Length",
        "a proxy that sends bodies in chunks: `proxy_request_buffering on`, or HTTP/1.1",
    ),
    Reason.BAD_REQUEST: Explanation(
        "not a request of this protocol",
        "another client program or version; the message says what was expected",
    ),
    Reason.BAD_ANSWER: Explanation(
        "an answer is not one that the protocol allows",
        "another program or version at the other end, or a proxy that answers in its place",
    ),
    Reason.UNREACHABLE: Explanation(
        "nobody answers at the aggregator's address, or the connection broke",
        "the message says what was tried: compare address, port, certificate and firewall; trying again is safe",
    ),
    Reason.BAD_CONFIG: Explanation(
        "settings, options or files that do not make sense",
        "the message names which",
    ),
    Reason.INTERNAL: Explanation(
        "a failure of the program",
        "the aggregator's log has the place; please report it. Nothing that a receipt was given for is lost",
    ),
}
