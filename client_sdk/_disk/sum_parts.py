"""Parts of a round's sum on a site: in memory, and in its spool if they are many or the download does not finish."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from pathlib import Path

from client_sdk._disk.files import explained
from he_agg.host.files import create

__all__ = ["SumParts"]


class SumParts:
    """The parts of one sum that were verified when they came.

    Nothing here is synced: a part that a crash has spoilt or lost is fetched again.

    Args:
        place: the round's place in the spool.
        in_memory: whether parts are held until `store`; otherwise each is written as it comes.
    """

    def __init__(self, place: Path, *, in_memory: bool) -> None:
        self._place, self._in_memory = place, in_memory
        self._held: dict[int, memoryview] = {}

    def keep(self, number: int, data: memoryview) -> None:
        """Keep a part, which nobody will change."""
        if self._in_memory:
            self._held[number] = data
        else:
            self._write(number, data)

    def read(self, number: int) -> bytes | memoryview:
        """Return a part that was kept or found."""
        if (held := self._held.get(number)) is not None:
            return held
        with explained(self._place):
            return self._path(number).read_bytes()

    def find(self, number: int, length: int, digest: str) -> bytes | None:
        """Return a part that an interrupted download has left, if it has the right bytes; None if it has to be fetched.

        It stays where it is.
        """
        try:
            with self._path(number).open("rb") as file:
                if os.fstat(file.fileno()).st_size != length:
                    return None
                data = file.read()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def store(self) -> None:
        """Write what is in memory, so that another download need not fetch it."""
        for number, data in self._held.items():
            self._write(number, data)
        self._held.clear()

    def remove(self) -> None:
        """Remove them: what was refused is not kept, and never looked at again."""
        self._held.clear()
        with explained(self._place), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._place / "sum")
            if not any(self._place.iterdir()):
                self._place.rmdir()  # a round that this site only fetched

    def _write(self, number: int, data: memoryview) -> None:
        """Write a part: whole, or not at all."""
        path = self._path(number)
        with explained(self._place):
            self._place.mkdir(mode=0o700, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            create(temporary, data, durable=False)
            temporary.rename(path)

    def _path(self, number: int) -> Path:
        return self._place / "sum" / f"part-{number:05d}"
