"""Finds the proxy on a site's way out, and says in its own words what it refuses.

A proxy would see plain http in the clear, so only TLS goes through one, unread: by CONNECT. Its answers are its own,
never the aggregator's. A proxy's url may hold a password: no message repeats any of it but host and port.
"""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from he_agg.errors import ConfigError, HeAggError, Reason, TransportError

__all__ = ["Proxy", "proxy_to", "refusal"]

_ASKED = 407
_FORM = "expected http://host:port or http://user:password@host:port in the environment"
_HINT = (
    "in a user or password, write `%23` for #, `%2F` for /, `%3F` for ?, `%40` for @; SOCKS proxies are not supported; "
    "if the aggregator needs no proxy, name its host in NO_PROXY"
)


@dataclass(frozen=True)
class Proxy:
    """A proxy on the way.

    Attributes:
        host: its name or address, in ASCII.
        is_tls: whether it is spoken to over TLS itself.
        login: user and password.
    """

    host: str
    port: int
    is_tls: bool
    login: tuple[str, str] | None = field(repr=False)


def proxy_to(host: str) -> Proxy | None:
    """Find the proxy for a host in the environment, or on other systems in their settings.

    Raises:
        ConfigError: what is set there is no HTTP proxy.
    """
    proxies = urllib.request.getproxies()
    setting = "https" if proxies.get("https") else "all"
    url = proxies.get(setting)
    if not url or urllib.request.proxy_bypass(host) or _is_excepted(host, proxies):
        return None
    where = f"{setting.upper()}_PROXY"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        whole = not (parts.query or parts.fragment) and parts.path in ("", "/") and parts.port != 0
        known = parts.scheme in ("http", "https") and parts.hostname and whole
        name = (parts.hostname or "").encode("idna").decode("ascii")
    except ValueError:
        known = False
    if not known:
        # Without the cause: urllib's messages quote what they could not read.
        raise ConfigError(Reason.BAD_CONFIG, f"{where}: {_FORM}, got something else", _HINT) from None
    login = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    is_tls = parts.scheme == "https"
    return Proxy(name, parts.port or (443 if is_tls else 80), is_tls, login)


def _is_excepted(host: str, proxies: Mapping[str, str]) -> bool:
    """Say whether NO_PROXY has the address, alone or in a network; names are urllib's to compare."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in proxies.get("no", "").split(","):
        try:
            if address in ipaddress.ip_network(entry.strip().strip("[]"), strict=False):
                return True
        except ValueError:
            continue
    return False


def refusal(proxy: Proxy, server: str, status: int) -> HeAggError:
    """Say what a proxy answered instead of letting a connection through.

    What waiting cannot mend is an error of the settings; anything else may pass.
    """
    by = f"the proxy {proxy.host}:{proxy.port}"
    if status == _ASKED:
        return ConfigError(
            Reason.BAD_CONFIG,
            f"{by} asks for a user and a password, or takes not these ({status})",
            "set HTTPS_PROXY to http://user:password@host:port",
        )
    if 400 <= status < 500:
        return ConfigError(
            Reason.BAD_CONFIG,
            f"{by} does not let this site connect to {server} ({status})",
            "ask whoever runs the proxy to allow it, or name the aggregator's host in NO_PROXY if it needs no proxy",
        )
    return TransportError(
        Reason.UNREACHABLE,
        f"{by} cannot reach {server} ({status})",
        "check the url and that the aggregator runs; what was encrypted stays in the spool",
    )
