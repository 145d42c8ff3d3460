"""Reach what takes events: a syslog receiver, a file of JSON lines, or an OTLP collector; one setting says which."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, parse_qsl, urlsplit

from he_agg.errors import ConfigError, Reason
from he_agg.host.files import file_trouble
from service.audit_events.event import AuditEvent
from service.monitor.audit_log.syslog import framed, syslog_message

__all__ = ["Numbered", "Target", "open_target"]

_TIMEOUT_S = 5.0
"""How long one act on a receiver may take. It keeps nobody waiting but the sender's own thread. Units: seconds."""

_FORMS = (
    "syslog://HOST[:514] (UDP), syslog+tcp://HOST[:514], syslog+tls://HOST[:6514][?ca_file=...&cert_file=...&key_file="
    "...], syslog+unix:///dev/log, file:///PATH, otlp:https://HOST/v1/logs"
)
_PORTS = {"syslog": 514, "syslog+tcp": 514, "syslog+tls": 6514}
_TLS_FILES = ("ca_file", "cert_file", "key_file")


class Numbered(NamedTuple):
    """An event, and its place among those of this process, from 1."""

    sequence: int
    event: AuditEvent


class Target(Protocol):
    """What takes events. Used by one thread at a time.

    Attributes:
        at_most: how many events it takes at once: all of them, or none.
    """

    at_most: int

    def send(self, events: Sequence[Numbered]) -> None:
        """Hand events over.

        Raises:
            OSError: it cannot be reached; they are sent again later.
        """

    def close(self) -> None:
        """Let go of it."""


def open_target(setting: str) -> Target:
    """Make what a setting names. A receiver that cannot be reached now is no error, a file that cannot be written is.

    Raises:
        ConfigError: no such form, a file that cannot be used, or OpenTelemetry is not installed.
    """
    kind, _, rest = setting.partition(":")
    if kind == "otlp":
        from service.monitor.audit_log.otlp import OtlpTarget

        return OtlpTarget(_endpoint(rest))
    url = _split(setting)
    if kind == "file" and url.path.startswith("/") and not (url.netloc or url.query):
        return FileTarget(Path(url.path))
    if kind == "syslog+unix" and url.path.startswith("/") and not (url.netloc or url.query):
        return SyslogTarget("", 0, unix=url.path)
    if kind in _PORTS and url.hostname and "@" not in url.netloc and url.path in ("", "/"):
        tls = _tls(url) if kind == "syslog+tls" else None
        if tls is None and url.query:
            raise _no_form("expected `?` after syslog+tls only")
        return SyslogTarget(url.hostname, url.port or _PORTS[kind], stream=kind != "syslog", tls=tls)
    raise _no_form("expected a target, got something else")


def _no_form(why: str) -> ConfigError:
    # It may hold a password by mistake, so what came is not repeated.
    return ConfigError(Reason.BAD_CONFIG, f"audit_log: {why}", f"one of {_FORMS}")


def _split(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        raise _no_form("expected an address and a port of 1 to 65535") from None
    return url


def _endpoint(text: str) -> str:
    url = _split(text)
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc:
        raise _no_form("expected http:// or https:// after otlp:, without a user")
    return text


def _tls(url: SplitResult) -> ssl.SSLContext:
    named = dict(parse_qsl(url.query))
    if named.keys() - set(_TLS_FILES) or ("key_file" in named and "cert_file" not in named):
        raise _no_form(f"expected {', '.join(_TLS_FILES)} after syslog+tls, and a certificate with the key")
    try:
        context = ssl.create_default_context(cafile=named.get("ca_file"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if "cert_file" in named:
            context.load_cert_chain(named["cert_file"], named.get("key_file"))
    except OSError as error:
        raise ConfigError(
            Reason.BAD_CONFIG, f"audit_log: a file of its TLS cannot be used: {error.strerror or type(error).__name__}"
        ) from error
    return context


class SyslogTarget:
    """A syslog receiver, by RFC 5424.

    By UDP (RFC 5426) nobody says whether a message has come; on a stream, what was under way when the receiver died is
    lost. Messages are numbered so that both can be seen.

    Args:
        unix: path of a datagram socket instead of host and port.
    """

    at_most = 1

    def __init__(
        self, host: str, port: int, *, stream: bool = False, tls: ssl.SSLContext | None = None, unix: str | None = None
    ) -> None:
        self._address, self._stream, self._tls, self._unix = (host, port), stream, tls, unix
        self._socket: socket.socket | None = None
        self._host, self._process = socket.gethostname(), os.getpid()

    def send(self, events: Sequence[Numbered]) -> None:
        """Hand events over."""
        try:
            for sequence, event in events:
                message = syslog_message(event, host=self._host, process=self._process, sequence=sequence)
                self._connected().sendall(framed(message) if self._stream else message)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the connection."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is not None and self._stream and _has_ended(self._socket):
            self.close()
        if self._socket is None:
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> socket.socket:
        if self._unix is not None:
            return _connect(socket.AF_UNIX, socket.SOCK_DGRAM, self._unix)
        if not self._stream:
            family, kind, _, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            return _connect(family, kind, address)
        plain = socket.create_connection(self._address, _TIMEOUT_S)
        if self._tls is None:
            return plain
        try:
            return self._tls.wrap_socket(plain, server_hostname=self._address[0])
        except BaseException:
            plain.close()
            raise


def _connect(family: int, kind: int, address: object) -> socket.socket:
    found = socket.socket(family, kind)
    try:
        found.settimeout(_TIMEOUT_S)
        found.connect(address)  # type: ignore[arg-type]
    except BaseException:
        found.close()
        raise
    return found


def _has_ended(connection: socket.socket) -> bool:
    """Tell whether a receiver has hung up. It has nothing to say but that, and by TLS a ticket for the next time."""
    connection.settimeout(0)
    try:
        return connection.recv(4096) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(_TIMEOUT_S)


class FileTarget:
    """A file with one JSON object a line, mode 0640.

    It is opened for each batch, so whoever renames it, as logrotate does, finds the next lines in a new file, and need
    not tell anybody. Several processes may write to one.
    """

    at_most = 100

    def __init__(self, path: Path) -> None:
        self._path = path
        self._host, self._process = socket.gethostname(), os.getpid()
        try:
            os.close(self._open())
        except OSError as error:
            raise file_trouble(error, f"audit_log: {path} cannot be written") from error

    def send(self, events: Sequence[Numbered]) -> None:
        """Add lines."""
        lines = "".join(self._line(*each) for each in events).encode()
        descriptor = self._open()
        try:
            # One write: whole lines, also between those of other processes.
            if (done := os.write(descriptor, lines)) < len(lines):
                # The disk is full: all of it comes again, after whatever is there of it by now.
                os.write(descriptor, b"\n") if done else None
                raise OSError("only a part of a line could be written")
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Do nothing: it is closed already."""

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o640)

    def _line(self, sequence: int, event: AuditEvent) -> str:
        line = {
            "v": 1,
            "time": datetime.fromtimestamp(event.at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "severity": event.kind.severity.name.lower(),
            "event": event.kind.name,
            "message": event.kind.meaning,
            "host": self._host,
            "process": self._process,
            "sequence": sequence,
            "fields": dict(event.fields),
        }
        return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"
