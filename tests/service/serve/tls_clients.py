"""Settings of a server with TLS, and who asks it."""

from __future__ import annotations

import ssl

from client_sdk._effects import Request
from client_sdk._net.server import TlsFiles
from client_sdk._net.signing import Signer
from client_sdk._net.transport import Transport
from tests.support.trust import identity_of

SIGNER = Signer("a", identity_of("a").signing_key, "test")
HEALTH = Request("GET", "/healthz", frozenset({200}))


def settings(issued, **more):
    return {"HE_AGG_TLS_CERT": str(issued.cert), "HE_AGG_TLS_KEY": str(issued.key), **more}


def ask(url, ca_file, client=None):
    """What a site does."""

    def flow():
        return (yield HEALTH)

    shown = {} if client is None else {"client_cert": client.cert, "client_key": client.key}
    transport = Transport(url, SIGNER, TlsFiles(ca_file, **shown))
    try:
        return transport.run(flow(), lambda event: None).status
    finally:
        transport.close()


def client_context(ca_file):
    return ssl.create_default_context(cafile=str(ca_file))
