"""uvicorn for the services that are measured against: as he-agg sets it, with faster parts if installed."""

from __future__ import annotations

import argparse
import importlib.util
import socket
import ssl
from typing import Any

import uvicorn

__all__ = ["add_server_options", "listen", "serve"]


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


def serve(app: Any, arguments: argparse.Namespace) -> None:
    """Listen on a free port, say where on stdout, serve until killed."""
    listener = listen(arguments.host)
    config = uvicorn.Config(
        app,
        http="httptools" if importlib.util.find_spec("httptools") else "h11",
        loop="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=3600,  # sites rest between rounds, and connect outside of what is measured
    )
    config.load()
    scheme = "http"
    if arguments.tls_cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(arguments.tls_cert, arguments.tls_key)
        config.ssl, scheme = context, "https"
    print(f"listening on {scheme}://{arguments.host}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
