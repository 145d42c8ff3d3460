"""Keep the keys that a holder's shares are sealed to, one for each epoch.

::

    <spool>/<site>/<federation>.sharing-keys/<epoch>      0600; sealed to the member's own receiving key

A key is durable before anybody seals to it, and is deleted once no round of its epoch can come any more: what was
sealed to it stays closed then, whoever takes this machine. So it belongs in no backup. A lost one is not made again:
the holder is out until the next epoch.
"""

from __future__ import annotations

from pathlib import Path

from client_sdk._disk.files import explained
from he_agg import canonical
from he_agg.errors import KeystoreError, Reason, WireError
from he_agg.host.files import make_directory, sync_directory
from he_agg.sharing.context import joined
from keys import Identity
from keys.receiving import ReceivingKey, seal
from keys.secret_file import read_secret, write_secret

__all__ = ["SharingKeys"]

_AT_REST = b"he-agg/sharing-key/at-rest/v1"
_MAX_BYTES = 2**16


class SharingKeys:
    """The sharing keys of one member in one federation. Several processes of a member may use the folder at once."""

    def __init__(self, folder: Path, federation: str, identity: Identity) -> None:
        self._folder, self._federation, self._identity = folder, federation, identity

    def __repr__(self) -> str:
        return f"SharingKeys({str(self._folder)!r})"

    def of(self, epoch: int) -> ReceivingKey | None:
        """Return the key of an epoch; None if there is none.

        Raises:
            KeystoreError: others may read it, or it was made with another identity.
        """
        path = self._path(epoch)
        if not path.exists():
            return None
        sealed = read_secret(path, _MAX_BYTES)
        try:
            opened = self._identity.receiving_key.open(sealed, self._info(epoch))
            fields = canonical.Fields(canonical.parse(opened, _MAX_BYTES), "sharing key")
            suite, key = fields.string("suite", 63), fields.string("key")
            fields.end()
            return ReceivingKey.from_bytes(suite, bytes.fromhex(key))
        except (KeystoreError, WireError, ValueError) as error:
            raise KeystoreError(
                Reason.KEYSTORE_CORRUPT,
                f"{path}: expected this member's sharing key of epoch {epoch}, got a damaged one, or one of another "
                "identity",
                "this holder answers no round of that epoch; it makes a new key when the next epoch begins",
            ) from error

    def make(self, epoch: int) -> ReceivingKey:
        """Return the key of an epoch, made and durable if there was none."""
        with explained(self._folder):
            make_directory(self._folder)
        if (known := self.of(epoch)) is not None:
            return known
        key = ReceivingKey.generate(self._identity.receiving_key.suite)
        body = canonical.encode({"suite": key.suite, "key": key.to_bytes().hex()})
        try:
            write_secret(self._path(epoch), seal(self._identity.receiving_key.public, body, self._info(epoch)))
        except KeystoreError as error:
            other = self.of(epoch) if error.reason == Reason.FILE_EXISTS else None  # another process was quicker
            if other is None:
                raise
            return other
        return key

    def forget_before(self, epoch: int) -> None:
        """Delete the keys of older epochs."""
        with explained(self._folder):
            if not self._folder.is_dir():
                return
            old = [path for path in self._folder.iterdir() if path.name.isdigit() and int(path.name) < epoch]
            for path in old:
                path.unlink(missing_ok=True)
            if old:
                sync_directory(self._folder)

    def _path(self, epoch: int) -> Path:
        return self._folder / str(epoch)

    def _info(self, epoch: int) -> bytes:
        name, federation = self._identity.name.encode(), self._federation.encode()
        return joined(_AT_REST, federation, epoch.to_bytes(8, "big"), name)
