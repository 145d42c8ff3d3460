"""Parts as files: in which order they become durable, and what the operating system's failures are called."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.store.failures import StoreBusyError, StoreFullError
from service.store.parts.base import SUM, PartKey, PartLostError
from service.store.parts.directory import DirectoryParts
from tests.service.store.parts.contract import KEY, LONG, MINE, ONE, OTHER, PartStoreContract, streamed


class TestDirectory(PartStoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return DirectoryParts(tmp_path)

    def opened_again(self, store):
        return DirectoryParts(store._root.parent)

    def spoil(self, store, key, data):
        store.path(key).unlink() if data is None else store.path(key).write_bytes(data)

    @contextmanager
    def room_for(self, store, size):
        real, left = os.write, size

        def write(descriptor, data):
            nonlocal left
            if not left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[:left]
            left -= len(data)
            return real(descriptor, data)

        os.write = write
        try:
            yield
        finally:
            os.write = real


@pytest.fixture
def store(tmp_path):
    return DirectoryParts(tmp_path)


@pytest.fixture
def events(monkeypatch):
    """What happens on the disk, in order."""
    seen = []
    real_sync, real_replace, real_mkdir = os.fsync, Path.replace, Path.mkdir

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append(f"sync {path.name if path.is_dir() else 'file'}")
        real_sync(descriptor)

    def replace(self, target):
        seen.append(f"rename to {target.name}")
        return real_replace(self, target)

    def mkdir(self, *arguments, **more):
        seen.append(f"make {self.name}")
        return real_mkdir(self, *arguments, **more)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    return seen


FIRST = [
    *("make rounds", "sync {root}"),
    *("make f.1.1", "sync rounds"),
    *("make submissions", "sync f.1.1"),
    *("make " + MINE, "sync submissions"),
]
"""Before the first file of a directory."""


def test_a_file_is_synced_before_its_name_and_the_directories_around_both(store, events, tmp_path):
    store.put_all([(KEY, b"part"), (PartKey(ONE, MINE, 2), b"another")])
    files = ["sync file", "rename to 1.part", "sync file", "rename to 2.part", f"sync {MINE}"]
    assert events == [each.format(root=tmp_path.name) for each in FIRST] + files
    assert store.path(KEY).read_bytes() == b"part"
    assert store.path(KEY).stat().st_mode & 0o777 == 0o600
    assert store.path(KEY).parent.stat().st_mode & 0o777 == 0o700


def test_directories_are_synced_once_by_each_process(store, events, tmp_path):
    """What another one has made may be in the kernel's memory only: it may have died before its own sync."""
    store.put_all([(KEY, b"part")])
    other = DirectoryParts(tmp_path)
    events.clear()
    store.put_all([(KEY, b"part")])
    assert events == ["sync file", "rename to 1.part", f"sync {MINE}"]
    events.clear()
    other.put_all([(KEY, b"part")])
    assert events[: len(FIRST)] == [each.format(root=tmp_path.name) for each in FIRST]


@pytest.mark.parametrize("owner", [MINE, OTHER, SUM])
def test_directories_that_are_gone_are_made_again(store, events, tmp_path, owner):
    """Another replica has removed the round: what this one remembers of its directories is not true any more."""
    store.put_all([(KEY, b"part")])
    DirectoryParts(tmp_path).purge_round(ONE)
    events.clear()
    key = PartKey(ONE, owner, 1)
    store.put_all([(key, b"part")])
    assert store.read(key) == b"part"
    made = [each for each in events if each.startswith("make")]
    for directory in (store.path(key).parent, *store.path(key).parent.parents):
        if directory.is_relative_to(tmp_path / "rounds"):
            assert f"make {directory.name}" in made
            assert f"sync {directory.parent.name}" in events[events.index(f"make {directory.name}") :]


def test_nothing_is_made_before_something_is_put(store, tmp_path):
    assert store.space().free_bytes > 0
    assert list(store.rounds()) == []
    assert store.size(KEY) is None
    assert store.purge_leftovers() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_round_without_anything_leaves_no_directory(store, tmp_path):
    store.put_all([(KEY, b"part"), (PartKey(ONE, SUM, 1), b"sum")])
    store.purge_submissions(ONE)
    assert list(store.rounds()) == [ONE]
    store.purge_sum(ONE)
    assert list((tmp_path / "rounds").iterdir()) == []


@pytest.mark.parametrize("call", ["write", "open"])
def test_a_full_disk_leaves_nothing_behind(store, monkeypatch, call):
    store.put_all([(KEY, b"first")])

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StoreFullError):
            store.put_all([(KEY, b"second")])
    assert store.read(KEY) == b"first"
    assert [path.name for path in store.path(KEY).parent.iterdir()] == ["1.part"]


@pytest.mark.parametrize(
    ("number", "writing", "reading"),
    [
        (errno.ENOSPC, StoreFullError, StoreFullError),
        (errno.EDQUOT, StoreFullError, StoreFullError),
        (errno.EMFILE, StoreBusyError, StoreBusyError),
        (errno.ENOENT, StoreBusyError, PartLostError),
        (errno.EIO, OSError, PartLostError),
        (errno.EACCES, OSError, OSError),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else value.__name__,
)
def test_what_failures_are_called(store, monkeypatch, number, writing, reading):
    store.put_all([(KEY, b"part")])

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(writing):
            store.put_all([(KEY, b"part")])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        patch.setattr(Path, "read_bytes", fail)
        for read in (store.read, lambda key: streamed(store, key, 4)):
            with pytest.raises(reading):
                read(KEY)
    assert store.read(KEY) == b"part"


@pytest.mark.parametrize("answer", [errno.EAGAIN, errno.EOPNOTSUPP, None], ids=["cold", "never says", "a part of it"])
def test_what_the_kernel_has_not_in_memory_is_waited_for(store, monkeypatch, rng, answer):
    """Whatever it answers to who does not wait: nothing yet, no such thing, or less than was asked for."""
    store.put_all([(KEY, LONG)])
    read, waited = os.preadv, []

    def preadv(descriptor, buffers, offset, flags=0):
        if flags and answer is not None and rng.random() < 0.5:
            raise OSError(answer, os.strerror(answer))
        if flags and answer is None:
            return read(descriptor, [buffers[0][: rng.integers(1, 2**20)]], offset)
        waited.append(not flags)
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    for _ in range(10):
        assert b"".join(streamed(store, KEY, len(LONG))) == LONG
    assert any(waited) == (answer is not None)


def test_an_fsync_error_ends_the_process(store, monkeypatch, capfd):
    class EndedError(BaseException):
        pass

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    def end(code):
        raise EndedError(code)

    store.put_all([(PartKey(ONE, MINE, 2), b"part")])
    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(EndedError, match="74"):
        store.put_all([(KEY, b"part")])
    assert "fsync failed: EIO" in capfd.readouterr().err
    assert store.size(KEY) is None


def test_what_was_being_written_is_left_over(store):
    store.put_all([(KEY, b"part")])
    half = store.path(KEY).with_name(".0.0123456789abcdef.tmp")
    half.write_bytes(b"half")
    assert store.purge_leftovers(older_than_s=3600) == 0
    assert half.exists()
    assert store.purge_leftovers() == 1
    assert [path.name for path in half.parent.iterdir()] == ["1.part"]
