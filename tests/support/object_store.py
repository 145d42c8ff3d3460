"""A real S3 server out of a package, SeaweedFS, which a test may stop, kill and start again on the same data."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_ports

__all__ = ["BUCKET", "ObjectStoreServer", "find_program", "running_object_store"]

BUCKET = "parts"
_START_S = 120
_KEY = "an-operator"
_SECRET = "of-this-store"


class ObjectStoreServer:
    """`weed server`: master, volumes, filer and S3 in one process, on free ports and in a directory of its own."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self.directory = directory
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = free_ports(8)
        self.url = f"http://127.0.0.1:{self._ports[6]}"
        identity = {
            "name": "operator",
            "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (directory / "data").mkdir()

    def start(self) -> None:
        """Start it, as an operator does who wants data to be on the disk, and wait until it answers."""
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = self._ports
        options = {
            "dir": self.directory / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.electionTimeout": "1s",
            "master.volumeSizeLimitMB": 128,
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 50,
            "volume.minFreeSpace": 0,
            "filer": "true",
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "s3": "true",
            "s3.port": s3,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": self.directory / "s3.json",
            "s3.autoCreateBucket": "false",
        }
        arguments = [f"-{name}={value}" for name, value in options.items()]
        is_new = not (self.directory / "server.log").exists()
        with (self.directory / "server.log").open("ab") as log:
            command = [self._program, "-logtostderr=true", "server", *arguments]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        self._await_answer()
        if is_new:
            self.shell(f"fs.configure -locationPrefix=/buckets/{BUCKET}/ -fsync=true -apply")
            self.shell(f"s3.bucket.create -name={BUCKET}")
        self._await_writing()

    def _await_writing(self) -> None:
        """Wait until it takes an object: it answers before it has volumes, which take it seconds on a busy machine."""
        import obstore  # where no object store can be started it need not be there

        store = obstore.store.S3Store(
            BUCKET,
            endpoint=self.url,
            region="us-east-1",
            access_key_id=_KEY,
            secret_access_key=_SECRET,
            client_options={"allow_http": True, "timeout": "30s"},
        )
        end = time.monotonic() + _START_S
        while True:
            try:
                obstore.put(store, "ready", b"")
                return
            except obstore.exceptions.BaseError:
                if time.monotonic() > end:
                    raise

    def _await_answer(self) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            assert self._process is not None
            assert self._process.poll() is None, f"it ended: {(self.directory / 'server.log').read_text()[-2000:]}"
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                try:
                    urllib.request.urlopen(self.url, timeout=5).close()
                except urllib.error.HTTPError as error:
                    error.close()
                    if error.code == 403:  # it knows its keys, and we have given none
                        return
            time.sleep(0.05)
        raise AssertionError(f"no answer within {_START_S} s")

    def shell(self, command: str) -> str:
        """Run a command of the operator."""
        master, filer = self._ports[0], self._ports[4]
        arguments = [f"-master=127.0.0.1:{master}.{self._ports[1]}", f"-filer=127.0.0.1:{filer}.{self._ports[5]}"]
        done = subprocess.run(
            [self._program, "shell", *arguments],
            input=f"{command}\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=self.directory,
        )
        assert "error" not in (done.stdout + done.stderr).lower(), done.stdout + done.stderr
        return done.stdout

    def kill(self) -> None:
        """End it at once, if it runs: SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Have it there without an answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            # Its threads stop one after another: on a busy machine one of them could still answer.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def new_place(self) -> str:
        """Return a prefix that nobody has used, as `--parts` takes it."""
        return f"s3://{BUCKET}/test/{next(self._numbers)}"

    def environment(self, key: str = _KEY, secret: str = _SECRET) -> dict[str, str]:
        """Return the variables with which it is found."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
        }

    def flip_a_bit(self, content: bytes) -> None:
        """Change a bit of an object on the disk, wherever it is."""
        for path in (self.directory / "data").glob("*.dat"):
            position = path.read_bytes().find(content)
            if position >= 0:
                with path.open("r+b") as file:
                    file.seek(position)
                    file.write(bytes([content[0] ^ 1]))
                return
        raise AssertionError("no volume has this content")


def find_program(name: str) -> str:
    """Return where a program is that a package has installed; the test is skipped where it cannot be had."""
    places = [str(Path(sys.prefix) / "bin"), str(Path(sys.base_prefix) / "bin"), os.environ.get("PATH", "")]
    # In an environment on top of another, the program is beside the package.
    places[1:1] = [str(Path(entry).parents[2] / "bin") for entry in sys.path if entry.endswith("site-packages")]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"there is no {name} here: pip install 'he-agg[dev]' on Linux has it")
    return found


@contextmanager
def running_object_store() -> Iterator[ObjectStoreServer]:
    """Start a server, and have everything of it removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="he-agg-s3-"))
    server = ObjectStoreServer(find_program("weed"), directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory)
