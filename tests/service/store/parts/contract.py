"""What every part store has to pass. A new one adds a subclass that says how it is opened, spoilt and filled up."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from he_agg.ids import RoundId
from service.store.failures import StoreFullError
from service.store.parts.base import SUM, PartKey, PartLostError, PartStore

ONE, TEN = RoundId("f", 1, 1), RoundId("f", 1, 10)
MINE, OTHER = "ab" * 32, "ab" * 31 + "ac"
KEY = PartKey(ONE, MINE, 1)
LONG = bytes(range(256)) * 10_000  # more than two pieces of a stream


def streamed(store, key, size):
    """Read a part as a download does, piece by piece."""

    async def pieces():
        return [piece async for piece in store.stream(key, size)]

    return asyncio.run(pieces())


class PartStoreContract(ABC):
    """Tests of the contract in base.py."""

    @pytest.fixture
    @abstractmethod
    def store(self, tmp_path) -> PartStore:
        """An empty store."""

    @abstractmethod
    def opened_again(self, store: PartStore) -> PartStore:
        """The same one as another server, or the next one, sees it."""

    @abstractmethod
    def spoil(self, store: PartStore, key: PartKey, data: bytes | None) -> None:
        """Change a part behind the store's back; None loses it."""

    @abstractmethod
    def room_for(self, store: PartStore, size: int) -> AbstractContextManager[None]:
        """Let the store hold only so many more bytes."""

    def test_what_was_put_is_read(self, store):
        store.put_all([(KEY, LONG), (PartKey(ONE, SUM, 1), memoryview(b"the sum")), (PartKey(ONE, MINE, 2), b"")])
        for one in (store, self.opened_again(store)):
            assert one.read(KEY) == b"".join(streamed(one, KEY, len(LONG))) == LONG
            assert one.read(PartKey(ONE, SUM, 1)) == b"the sum"
            assert one.read(PartKey(ONE, MINE, 2)) == b"" == b"".join(streamed(one, PartKey(ONE, MINE, 2), 0))
            assert (one.size(KEY), one.size(PartKey(ONE, MINE, 2))) == (len(LONG), 0)
            assert one.is_whole(KEY, digest(LONG))

    def test_putting_again_changes_nothing_or_replaces(self, store):
        for data in (b"first", b"first", b"the second", b"3"):
            store.put_all([(KEY, data)])
            assert store.read(KEY) == data

    def test_a_stream_comes_in_pieces(self, store):
        store.put_all([(KEY, LONG)])
        assert len(streamed(store, KEY, len(LONG))) > 2

    @pytest.mark.parametrize("data", [None, LONG[:-1], LONG + b"x", b""], ids=["lost", "short", "long", "empty"])
    def test_a_stream_that_is_not_as_long_as_it_should_be_ends_in_an_error(self, store, data):
        store.put_all([(KEY, LONG)])
        self.spoil(store, KEY, data)
        with pytest.raises(PartLostError):
            streamed(store, KEY, len(LONG))

    def test_a_stream_may_be_left(self, store):
        store.put_all([(KEY, LONG)])

        async def leave():
            pieces = store.stream(KEY, len(LONG))
            assert LONG.startswith(await anext(pieces))
            await pieces.aclose()

        asyncio.run(leave())
        store.delete(KEY)

    def test_what_is_missing(self, store):
        store.put_all([(PartKey(ONE, MINE, 2), b"another")])
        for key in (KEY, PartKey(TEN, MINE, 1), PartKey(ONE, OTHER, 2), PartKey(ONE, SUM, 2)):
            assert store.size(key) is None
            assert not store.is_whole(key, digest(b"another"))
            for ask in (store.read, lambda key: streamed(store, key, 7)):
                with pytest.raises(PartLostError, match=f"part {key.number} of .* in round {key.round_id}"):
                    ask(key)

    @pytest.mark.parametrize("data", [None, b"", LONG[:-1], b"\1" + LONG[1:]], ids=["lost", "empty", "short", "bit"])
    def test_what_was_damaged_is_not_whole(self, store, data):
        store.put_all([(KEY, LONG)])
        assert store.is_whole(KEY, digest(LONG))
        assert not store.is_whole(KEY, digest(b"something else"))
        self.spoil(store, KEY, data)
        assert not store.is_whole(KEY, digest(LONG))
        store.put_all([(KEY, LONG)])
        assert store.is_whole(KEY, digest(LONG))

    def test_a_batch_that_finds_no_room_half_way(self, store):
        before = [(PartKey(ONE, MINE, number), b"before") for number in range(3)]
        store.put_all(before)
        after = [(key, bytes([key.number]) * 1000) for key, _ in before]
        with self.room_for(store, 1500), pytest.raises(StoreFullError):
            store.put_all(after)
        got = [store.read(key) for key, _ in before]
        assert all(data in (b"before", after[number][1]) for number, data in enumerate(got)), "a part is not whole"
        assert got[2] == b"before"
        store.put_all(after)
        assert [store.read(key) for key, _ in after] == [data for _, data in after]

    def test_what_found_no_room_is_absent(self, store):
        with self.room_for(store, 10), pytest.raises(StoreFullError):
            store.put_all([(KEY, LONG)])
        assert store.size(KEY) is None
        assert store.purge_leftovers() == 0

    def test_the_same_key_from_many_threads(self, store):
        versions = [bytes([number]) * 100_000 for number in range(8)]

        def put_and_read(data):
            for _ in range(10):
                store.put_all([(KEY, data)])
                assert store.read(KEY) in versions

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put_and_read, versions))
        assert store.read(KEY) in versions
        assert store.purge_leftovers() == 0

    def test_different_keys_of_one_submission_from_many_threads(self, store):
        keys = [PartKey(ONE, MINE, number) for number in range(32)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put_all([(key, bytes([key.number]))]), keys))
        assert [store.read(key) for key in keys] == [bytes([key.number]) for key in keys]

    def test_keys_that_look_alike(self, store):
        keys = [
            PartKey(round_id, owner, number)
            for round_id in (ONE, TEN, RoundId("f", 11, 1), RoundId("f-1", 1, 1), RoundId("ff", 1, 1))
            for owner in (MINE, OTHER, MINE[:-1] + "0", SUM)
            for number in (0, 1, 10, 11)
        ]
        contents = {key: repr(key).encode() for key in keys}
        for key, data in contents.items():
            store.put_all([(key, data)])
        assert {key: store.read(key) for key in keys} == contents
        assert set(store.rounds()) == {key.round_id for key in keys}
        store.delete(KEY)
        store.purge_submission(ONE, OTHER)
        store.purge_submissions(TEN)
        store.purge_sum(RoundId("f", 11, 1))
        store.purge_round(RoundId("f-1", 1, 1))

        def is_gone(key):
            return (
                key == KEY
                or (key.round_id, key.owner) in ((ONE, OTHER), (RoundId("f", 11, 1), SUM))
                or (key.round_id == TEN and key.owner != SUM)
                or key.round_id == RoundId("f-1", 1, 1)
            )

        assert {key for key in keys if store.size(key) is None} == {key for key in keys if is_gone(key)}
        assert {key: store.read(key) for key in keys if not is_gone(key)} == {
            key: data for key, data in contents.items() if not is_gone(key)
        }

    def test_purging_is_repeated_without_harm_and_parts_may_come_after_it(self, store):
        key = PartKey(ONE, SUM, 1)
        for purge in (
            lambda: store.purge_submission(ONE, MINE),
            lambda: store.purge_submissions(ONE),
            lambda: store.purge_sum(ONE),
            lambda: store.purge_round(ONE),
            lambda: store.delete(KEY),
        ):
            purge()
            store.put_all([(KEY, b"part"), (key, b"sum")])
            purge()
            purge()
            store.put_all([(KEY, b"part"), (key, b"sum")])
            assert (store.read(KEY), store.read(key)) == (b"part", b"sum")

    def test_nothing_that_was_put_is_left_over(self, store):
        store.put_all([(PartKey(ONE, owner, 1), b"x") for owner in (MINE, SUM)])
        again = self.opened_again(store)
        assert again.purge_leftovers() == 0
        assert [again.size(PartKey(ONE, owner, 1)) for owner in (MINE, SUM)] == [1, 1]

    def test_an_empty_one(self, store):
        store.check()
        assert list(store.rounds()) == []
        assert store.purge_leftovers() == 0
        space = store.space()
        assert space is None or 0 <= space.free_bytes <= space.size_bytes


def digest(data):
    return hashlib.sha256(data).hexdigest()
