"""Answers: problems, and what comes back on a bare socket."""

from __future__ import annotations

import re
import socket


def assert_problem(answer, status, reason):
    assert (answer.status_code, answer.json().get("reason")) == (status, reason), answer.text
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["type"] == f"urn:he-agg:problem:{reason}"
    assert body["status"] == status
    assert body["detail"]
    assert body["title"]
    return body


def raw_answer(world, head, body=b"", timeout_s=30.0):
    """Send a head, and only if asked a body, on a bare socket. Returns the answer up to the end of its body."""
    host, port = world.server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode() + body)
        received = b""
        while b"\r\n\r\n" not in received or len(received.split(b"\r\n\r\n", 1)[1]) < _length(received):
            chunk = connection.recv(65536)
            assert chunk, received
            received += chunk
        return received.decode()


def _length(received):
    found = re.search(rb"content-length: (\d+)", received)
    return int(found[1]) if found else 0  # 204
