"""Write tests/vectors/sharing/*.json from the package. Run by hand, only when the format changes:

    python -m tests.vectors.make_sharing            all but the sealed dealings, which no two runs make alike
    python -m tests.vectors.make_sharing sealed     these

The files are the format: a change of theirs changes the wire format, and `second_sharing.py` must agree.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from he_agg.ids import RoundId
from he_agg.ring.sampling import key_law
from he_agg.sharing.context import Context, elements
from he_agg.sharing.dealer import _deal, deal
from he_agg.sharing.dealing import Dealing, Holders
from he_agg.sharing.decoding import rebuild
from he_agg.sharing.field import write
from he_agg.sharing.masks import mask
from he_agg.sharing.shamir import expand as row_of_seed
from he_agg.sharing.shamir import share
from he_agg.sharing.shares import BadShare, open_share
from keys.dealing import sealing_to
from keys.receiving import ReceivingKey

FOLDER = Path(__file__).parent / "sharing"
CONTEXT_FIELDS = ("epoch", "plan_id", "key_id", "roster", "holders", "dealer", "nonce")


def seed(label):
    return hashlib.sha256(f"he-agg sharing vector {label}".encode()).digest()


def expand(start, size):
    """SHA-256 in counter mode, to keep what is long out of the file."""
    return b"".join(hashlib.sha256(start + i.to_bytes(4, "big")).digest() for i in range(-(-size // 32)))[:size]


def sha(data):
    return hashlib.sha256(data).hexdigest()


def digest(label):
    return seed(label).hex()


def context_of(site, federation="northern-clinics", number=7, attempt=1):
    return Context(
        RoundId(federation, number, attempt),
        epoch=2,
        plan_id=digest("plan"),
        key_id=digest("key"),
        roster=digest("roster"),
        holders=digest("holders"),
        dealer=site,
        nonce=digest(f"nonce of {site}")[:32],
    )


def told(context):
    return context.round_id.members() | {name: getattr(context, name) for name in CONTEXT_FIELDS}


def xof():
    for count, label, fields in (
        (8, b"he-agg/vector/v1", ()),
        (30_000, b"he-agg/vector/v1", (seed("one"), b"", b"two")),
    ):
        x = elements(count, label, *fields)
        yield {
            "label": label.decode(),
            "fields": [field.hex() for field in fields],
            "count": count,
            "first": x[:8].tolist(),
            "sha256_u16le": sha(write(x)),
        }


def contexts():
    for context, index, holder in (
        (context_of("hospital-a"), 1, "trustee"),
        (context_of("b", "f", 10**9 - 1, 3), 31, "hospital-z"),
    ):
        info = context.sealing_info(index, holder)
        yield {"context": told(context), "index": index, "holder": holder, "info": info.hex()}


def masks():
    for site in ("hospital-a", "hospital-b"):
        x = mask(seed("mask key"), context_of(site))
        yield {
            "mask_key": seed("mask key").hex(),
            "context": told(context_of(site)),
            "first": x[:8].tolist(),
            "sha256_u16le": sha(write(x)),
        }


def dealings():
    for count, threshold in ((3, 3), (4, 2), (5, 3), (2, 1)):
        holders = Holders(tuple(f"h-{i}" for i in range(count)), ("x25519",) * count, threshold)
        context, entropy = context_of("hospital-a"), expand(seed("entropy"), 32 * (count + threshold))
        key = key_law(expand(seed("key"), 2048 * 8))
        public, plaintexts = _deal(key, seed("mask key"), context, holders, entropy)
        blobs = tuple(expand(seed(f"blob {i}"), holders.blob_bytes(i)) for i in range(1, count + 1))
        yield {
            "holders": count,
            "threshold": threshold,
            "context": told(context),
            "mask_key": seed("mask key").hex(),
            "expand_key": seed("key").hex(),
            "expand_entropy": seed("entropy").hex(),
            "public": public.hex(),
            "sha256_plaintexts": [sha(plaintext) for plaintext in plaintexts],
            "expand_blobs": [seed(f"blob {i}").hex() for i in range(1, count + 1)],
            "digest": Dealing(holders, public, blobs).digest,
        }


def answers():
    """Some answers are the expansion of a seed in the place of the right row."""
    for count, threshold, there, liars in (
        (4, 2, (1, 2, 3, 4), (2,)),
        (10, 4, tuple(range(1, 11)), (3, 4, 9)),
        (10, 4, (1, 2, 4, 6, 7, 8, 10), (10,)),
        (5, 3, (2, 3, 5), ()),
    ):
        seeds = [seed(f"row {k}") for k in range(1, threshold)]
        rows = share(row_of_seed(seed("secret"), 2048), seeds, count)
        given = {j: row_of_seed(seed(f"lie {j}"), 2048) if j in liars else rows[j - 1] for j in there}
        got = rebuild(given, threshold, lambda total: True)
        yield {
            "threshold": threshold,
            "seed_of_row_0": seed("secret").hex(),
            "seeds_of_rows": [start.hex() for start in seeds],
            "answers": list(there),
            "lies": {str(j): seed(f"lie {j}").hex() for j in liars},
            "first": got.total[:8].tolist(),
            "sha256_u16le": sha(write(got.total)),
            "liars": list(got.liars),
        }


def sealed():
    """Sealed in earnest: who has the private keys opens what is stored."""
    for suite in ("x25519", "mlkem768-x25519"):
        private = {name: ReceivingKey.generate(suite) for name in ("hospital-a", "trustee")}
        holders = Holders((*private, "hospital-c"), (suite, suite, None), 2)
        context, key = context_of("hospital-b"), key_law(expand(seed("key"), 2048 * 8))
        seal = sealing_to({name: one.public for name, one in private.items()})
        dealing = deal(key, seed("mask key"), context, holders, seal)
        opened = {name: open_share(dealing.excerpt(name), context, one.open) for name, one in private.items()}
        rows = {name: row for name, row in opened.items() if not isinstance(row, BadShare)}
        yield {
            "suite": suite,
            "names": list(holders.names),
            "private_keys": {name: one.to_bytes().hex() for name, one in private.items()},
            "threshold": 2,
            "context": told(context),
            "mask_key": seed("mask key").hex(),
            "expand_key": seed("key").hex(),
            "dealing": dealing.to_bytes().hex(),
            "digest": dealing.digest,
            "sha256_shares": {name: sha(write(row)) for name, row in rows.items()},
        }


FILES = {"xof": xof, "context": contexts, "mask": masks, "dealing": dealings, "answers": answers}
"""What any run makes alike."""


def make(cases):
    """Return the text of one file."""
    return json.dumps({"format": "he-agg sharing vectors 1", "cases": list(cases())}, indent=1) + "\n"


def open_stored(case):
    """The shares of a stored dealing, by the package."""
    names, suite = tuple(case["names"]), case["suite"]
    suites = tuple(suite if name in case["private_keys"] else None for name in names)
    told_of = case["context"]
    context = Context(
        RoundId(told_of["federation"], told_of["round"], told_of["attempt"]),
        **{name: told_of[name] for name in CONTEXT_FIELDS},
    )
    dealing = Dealing.parse(bytes.fromhex(case["dealing"]), Holders(names, suites, case["threshold"]))
    shares: dict[str, np.ndarray | BadShare] = {}
    for name, key in case["private_keys"].items():
        private = ReceivingKey.from_bytes(suite, bytes.fromhex(key))
        shares[name] = open_share(dealing.excerpt(name), context, private.open)
    return dealing.digest, shares


if __name__ == "__main__":
    chosen = {"sealed": sealed} if sys.argv[1:] == ["sealed"] else FILES
    for file, cases in chosen.items():
        (FOLDER / f"{file}.json").write_text(make(cases))
