"""A store that keeps no conditions is refused. rclone's S3 server is a real one: 8 of 8 writers win there."""

import contextlib
import subprocess
import time
import urllib.request

import pytest

from he_agg.errors import ConfigError
from service.settings import Settings
from service.store.parts import probe
from service.store.parts.s3 import S3Parts
from tests.support.object_store import find_program
from tests.support.ports import free_ports

BROKEN = {
    "_keeps_the_first": "ignores `If-None-Match: *`",
    "_replaces_only_what_was_seen": "ignores `If-Match`",
    "_lets_one_writer_win": "lets two of 8 writers win",
    "_verifies_checksums": "takes a body that does not fit its `x-amz-checksum-sha256`",
}
"""What rclone does not keep."""


@pytest.fixture(scope="module")
def careless(tmp_path_factory):
    """The address of a store that lets everybody do anything."""
    directory, address = tmp_path_factory.mktemp("careless"), f"127.0.0.1:{free_ports(1)[0]}"
    (directory / "parts").mkdir()
    command = [find_program("rclone"), "serve", "s3", "--addr", address, str(directory)]
    with (directory.parent / "rclone.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as one:
        end = time.monotonic() + 60
        while one.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{address}", timeout=5).close()
                break
            time.sleep(0.05)
        yield f"http://{address}"
        one.kill()


@pytest.fixture
def store(careless, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": careless,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    return S3Parts(Settings(parts="s3://parts/test", parts_timeout_s=5))


def test_it_is_refused(store):
    with pytest.raises(ConfigError, match=r"s3://parts/test ignores `If-None-Match: \*`"):
        store.prove()


@pytest.mark.parametrize("name", BROKEN)
def test_each_thing_that_it_does_not_keep_is_noticed_and_named(store, name, monkeypatch):
    only = {what: test for what, test in probe._TESTS.items() if test.__name__ == name}
    monkeypatch.setattr(probe, "_TESTS", only)
    with pytest.raises(ConfigError) as caught:
        store.prove()
    assert BROKEN[name] in str(caught.value)


@pytest.mark.parametrize("keeps", [False, True], ids=["rclone", "seaweedfs"])
def test_a_checksum_is_tried_even_if_the_client_alone_knows_the_secret(store, object_store, keeps, monkeypatch):
    """As with the credentials of a role: then it is not among what is signed."""
    if keeps:
        for name, value in object_store.environment().items():
            monkeypatch.setenv(name, value)
        store = S3Parts(Settings(parts=object_store.new_place()))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert probe._verifies_checksums(store._client, "probes/unsigned") is keeps
