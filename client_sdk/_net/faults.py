"""Say of a request that got no answer what was wrong, and what to look at: in words."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from client_sdk._effects import Request
from client_sdk._net.budget import BadAnswerError, ClosedError, LineError, NoConnectionError, ProxyError
from client_sdk._net.proxies import Proxy, refusal
from client_sdk._net.server import Server
from he_agg.errors import ConfigError, Reason, TransportError

__all__ = ["faults"]


@contextmanager
def faults(server: Server, request: Request, proxy: Proxy | None) -> Iterator[None]:
    """Turn what is told of lines into errors of a site. No header is ever part of a message."""
    try:
        yield
    except LineError as error:
        if isinstance(error, ProxyError) and proxy is not None:
            raise refusal(proxy, server.name, error.status) from error
        causes = list(_causes(error))
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"{server.name}: its certificate is not trusted: {error}",
                "check the url; for a private certificate authority set ca_file",
            ) from error
        what, hint = _explain(server, request, proxy, error, causes)
        raise TransportError(
            Reason.UNREACHABLE, f"{server.name}: {what}", f"{hint}; what was encrypted stays in the spool"
        ) from error


def _explain(
    server: Server, request: Request, proxy: Proxy | None, error: Exception, causes: list[BaseException]
) -> tuple[str, str]:
    by = None if proxy is None else f"the proxy {proxy.host}"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return (
            f"no address is known of {by or server.host}",
            f"check the host's name in {'HTTPS_PROXY' if by else 'the url'}, and this machine's DNS",
        )
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return (
            f"nobody listens at the port of {by}" if by else "nobody listens at that port",
            f"check the port in {'HTTPS_PROXY' if by else 'the url'}, and that the aggregator runs",
        )
    if isinstance(error, NoConnectionError) and len(causes) == 1:
        return (
            "no connection came about",
            "check the host and port in the url, and whether a firewall is on the way: its packets get no answer",
        )
    if server.url.scheme == "https" and any(_is_no_tls(cause) for cause in causes):
        return (
            "what answers there speaks no TLS",
            "check the port in the url; an aggregator without a certificate is for http:// on its own machine",
        )
    where = f"{request.method} {request.path.split('?')[0]}"
    if server.url.scheme == "http" and _hung_up(error):
        return (
            f"{where}: the connection was closed before all of an answer was there",
            "check that the aggregator runs; if that port speaks TLS, write https:// in the url",
        )
    return f"{where}: {str(error) or type(error).__name__}", "check the url and that the aggregator runs"


def _is_no_tls(cause: BaseException) -> bool:
    return isinstance(cause, ssl.SSLError) and cause.reason in (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "RECORD_LAYER_FAILURE",
    )


def _hung_up(error: Exception) -> bool:
    """Whether it is what a TLS server does to plain http, among others: it hangs up, with an alert in bytes or not."""
    return isinstance(error, ClosedError) or (isinstance(error, BadAnswerError) and "illegal" in str(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
