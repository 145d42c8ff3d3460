"""Check where requests go, and over what: the url of an aggregator, certificates, and the proxy on the way.

Over TLS or to this very machine, and to the configured host only.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from he_agg.errors import ConfigError, Reason
from he_agg.host.addresses import is_this_machine

__all__ = ["Server", "TlsFiles", "context_for"]

_HOST = re.compile(r"[a-z0-9._:-]+")


@dataclass(frozen=True)
class TlsFiles:
    """Certificates of a connection, PEM.

    Attributes:
        ca_file: whom to trust instead of the system's authorities.
        client_cert: what this site shows to a proxy that asks for it.
        client_key: its key, if it is not in the same file.
    """

    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None


@dataclass(frozen=True)
class Server:
    """The address of an aggregator."""

    url: SplitResult
    host: str

    @property
    def name(self) -> str:
        """Scheme, host and port, as messages name it."""
        return f"{self.url.scheme}://{self.url.netloc}"

    @property
    def port(self) -> int:
        """Its port, named in the url or not."""
        return self.url.port or (443 if self.url.scheme == "https" else 80)

    @property
    def bracketed(self) -> str:
        """The host as requests name it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def target(self, path: str) -> str:
        """Return what a request asks for: a proxy may put a prefix in front, which the aggregator never sees."""
        return self.url.path.rstrip("/") + path

    @property
    def headers(self) -> dict[str, str]:
        """Header fields of every request."""
        host = self.bracketed if self.url.port is None else f"{self.bracketed}:{self.url.port}"
        return {"Host": host, "Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "he-agg-site"}

    @classmethod
    def of(cls, url: str) -> Server:
        """Check the url of an aggregator."""
        try:
            base = urlsplit(url)
            host = (base.hostname or "").encode("idna").decode("ascii")
            plain = base.port != 0 and (url + base.path).isprintable() and not {" ", "?", "#", "@"} & set(url)
            base.path.encode("ascii")
        except ValueError as error:
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"url: expected https://host..., got something else: {error}",
                'give one like "https://aggregator.example:8443", as the operator tells it',
            ) from error
        if base.scheme not in ("https", "http") or not _HOST.fullmatch(host) or not plain:
            raise ConfigError(
                Reason.BAD_CONFIG,
                "url: expected https://host[:port][/path] without user, query or fragment, got something else",
                'give one like "https://aggregator.example:8443", as the operator tells it',
            )
        if base.scheme == "http" and not is_this_machine(host):
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"url: expected https:// for {host}, got http://, which would show who takes part, and when",
                "plain http is for an aggregator on this machine only",
            )
        return cls(base, host)


def context_for(server: Server, tls: TlsFiles) -> ssl.SSLContext | None:
    """Choose what is trusted and shown; nothing where the url says http.

    Raises:
        ConfigError: a file that cannot be used, or that nobody would be shown.
    """
    https = server.url.scheme == "https"
    if tls.client_cert is None and tls.client_key is not None:
        raise ConfigError(Reason.BAD_CONFIG, "client_key: expected client_cert beside it, got none")
    if tls.client_cert is not None and not https:
        raise ConfigError(Reason.BAD_CONFIG, "client_cert: expected an https:// url to show it to, got http://")
    if not https and tls.ca_file is None:
        return None  # reading what the machine trusts takes longer than opening a site does
    try:
        context = ssl.create_default_context(cafile=None if tls.ca_file is None else str(tls.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            Reason.BAD_CONFIG, f"ca_file {tls.ca_file}: expected certificates in PEM form: {error.strerror}"
        ) from error
    if tls.client_cert is not None:
        try:
            # The empty password: OpenSSL must not ask for one on a terminal that nobody watches.
            context.load_cert_chain(tls.client_cert, tls.client_key, password="")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"client_cert {tls.client_cert}, client_key {tls.client_key or 'in the same file'}: expected a "
                f"certificate and its key in PEM form, without a passphrase: {error.strerror}",
            ) from error
    context.set_alpn_protocols(["http/1.1"])
    return context if https else None
