"""The part store of tests and simulations."""

from contextlib import contextmanager

import pytest

from service.store.failures import StoreFullError
from service.store.parts.base import Space
from service.store.parts.memory import MemoryParts
from tests.service.store.parts.contract import KEY, PartStoreContract


class TestMemory(PartStoreContract):
    @pytest.fixture
    def store(self):
        return MemoryParts()

    def opened_again(self, store):
        return store

    def spoil(self, store, key, data):
        store.parts.pop(key) if data is None else store.parts.update({key: data})

    @contextmanager
    def room_for(self, store, size):
        store.limit_bytes = sum(map(len, store.parts.values())) + size
        yield
        store.limit_bytes = None

    def test_what_is_left(self):
        store = MemoryParts(limit_bytes=10)
        store.put_all([(KEY, b"12345678")])
        store.put_all([(KEY, b"123456789")])
        assert store.space() == Space(1, 10)
        store.put_all([(KEY, b"1234567890")])
        with pytest.raises(StoreFullError):
            store.check()
