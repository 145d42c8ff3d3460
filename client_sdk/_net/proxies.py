"""Finds the proxy on a site's way out, and says in its own words what it refuses.

A proxy would see plain http in the clear, so only TLS goes through one, unread: by CONNECT. Its answers are its own,
never the aggregator's. A proxy's url may hold a password: no message repeats any of it but host and port.
"""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import httpcore

from he_agg.errors import ConfigError, HeAggError, Reason, TransportError

__all__ = ["proxy_to", "refusal"]

_ASKED = 407
_FORM = "expected http://host:port or http://user:password@host:port in the environment"
_HINT = (
    "in a user or password, write `%23` for #, `%2F` for /, `%3F` for ?, `%40` for @; SOCKS proxies are not supported; "
    "if the aggregator needs no proxy, name its host in NO_PROXY"
)


def proxy_to(host: str) -> httpcore.Proxy | None:
    """Find the proxy for a host in the environment, or on other systems in their settings.

    Raises:
        ConfigError: what is set there is no HTTP proxy.
    """
    proxies = urllib.request.getproxies()
    name = "https" if proxies.get("https") else "all"
    url = proxies.get(name)
    if not url or urllib.request.proxy_bypass(host) or _is_excepted(host, proxies):
        return None
    where = f"{name.upper()}_PROXY"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        whole = not (parts.query or parts.fragment) and parts.path in ("", "/") and parts.port != 0
        known = parts.scheme in ("http", "https") and parts.hostname and whole
        address = httpcore.URL(
            scheme=parts.scheme, host=(parts.hostname or "").encode("idna"), port=parts.port, target="/"
        )
    except ValueError:
        known = False
    if not known:
        # Without the cause: urllib's messages quote what they could not read.
        raise ConfigError(Reason.BAD_CONFIG, f"{where}: {_FORM}, got something else", _HINT) from None
    login = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    return httpcore.Proxy(address, auth=login)


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


def refusal(proxy: httpcore.Proxy, server: str, error: httpcore.ProxyError) -> HeAggError:
    """Say what a proxy answered instead of letting a connection through.

    What waiting cannot mend is an error of the settings; anything else may pass.
    """
    by = f"the proxy {proxy.url.host.decode('ascii')}:{proxy.url.port or proxy.url.origin.port}"
    status = str(error).split(" ")[0]
    if status == str(_ASKED):
        return ConfigError(
            Reason.BAD_CONFIG,
            f"{by} asks for a user and a password, or takes not these ({status})",
            "set HTTPS_PROXY to http://user:password@host:port",
        )
    if status.startswith("4"):
        return ConfigError(
            Reason.BAD_CONFIG,
            f"{by} does not let this site connect to {server} ({status})",
            "ask whoever runs the proxy to allow it, or name the aggregator's host in NO_PROXY if it needs no proxy",
        )
    detail = f" ({status})" if status.isdecimal() else ""
    return TransportError(
        Reason.UNREACHABLE,
        f"{by} cannot reach {server}{detail}",
        "check the url and that the aggregator runs; what was encrypted stays in the spool",
    )
