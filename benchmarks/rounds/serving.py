"""uvicorn for the services that are measured against: with the parser, event loop and memory that he-agg has.

Bodies come to them as uvicorn hands them out, in pieces that they work on at once; he-agg has them come into its parts.
"""

from __future__ import annotations

import argparse
import socket
import ssl
from typing import Any

import uvicorn

from service.serve.memory import keep_memory

__all__ = ["add_server_options", "config_of", "listen", "serve"]


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """What every service needs to know."""
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--values", type=int, required=True)
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")


def listen(host: str) -> socket.socket:
    """A free port. The protocol is named: asyncio sets TCP_NODELAY on such sockets only, and without it the end of
    every answer waits 40 ms for an acknowledgement.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind((host, 0))
    listener.listen(128)
    return listener


def config_of(app: Any, **more: Any) -> uvicorn.Config:
    """Set uvicorn as he-agg does: the same parser, event loop and memory."""
    keep_memory()
    return uvicorn.Config(app, http="httptools", loop="auto", ws="none", log_config=None, access_log=False, **more)


def serve(app: Any, arguments: argparse.Namespace) -> None:
    """Listen on a free port, say where on stdout, serve until killed."""
    # Sites rest between rounds, and connect outside of what is measured.
    config = config_of(app, timeout_keep_alive=3600)
    listener = listen(arguments.host)
    config.load()
    scheme = "http"
    if arguments.tls_cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(arguments.tls_cert, arguments.tls_key)
        config.ssl, scheme = context, "https"
    print(f"listening on {scheme}://{arguments.host}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
