"""Identity providers: a real one, and one whose answers a test can spoil."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

__all__ = ["SECRET", "Forger", "canaille", "come_back"]

SECRET = "a secret/with: signs%"


@contextmanager
def canaille(*redirects: str) -> Iterator[str]:
    """A running Canaille; its issuer. Skips the test where it is not installed."""
    if find_spec("canaille") is None:
        pytest.skip("no identity provider here: pip install 'he-agg[dev]'")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.canaille_program", *redirects],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        issuer = process.stdout.readline().strip()
        assert issuer.startswith("http://"), "it did not start"
        yield issuer
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def come_back(client: httpx.Client, page: str, user: str) -> httpx.URL:
    """Sign in at a Canaille, as a browser does, page by page; the address that it sends the browser back to."""
    answer = client.get(f"{page}/sign-in")
    for _ in range(20):
        if answer.is_redirect:
            assert answer.next_request is not None
            if str(answer.next_request.url).startswith(page):
                return answer.next_request.url
            answer = client.send(answer.next_request)
            continue
        assert answer.status_code == 200, answer.text
        form = next(one for one in re.findall(r"<form.*?</form>", answer.text, re.S) if "csrf_token" in one)
        fields = {}
        for tag in re.findall(r"<input[^>]*>", form):
            name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
            if name is not None:
                fields[name[1]] = "" if value is None else unescape(value[1])
        fields |= {"login": user} if "login" in fields else {"password": f"{user} is my password"}
        answer = client.post(answer.url, data=fields)
    raise AssertionError("it did not come to an end")


class Forger:
    """A provider that signs what a test tells it to.

    Attributes:
        claims: what the next token says besides what it should.
        changes: what is other in its description of itself.
        userinfo: what that endpoint answers.
        requests: addresses that were asked for.
        status: of the answer of the token endpoint.
    """

    def __init__(self) -> None:
        forger = self
        self.requests: list[str] = []
        self.claims: dict[str, Any] = {}
        self.changes: dict[str, Any] = {}
        self.userinfo: dict[str, Any] | None = None
        self.status = 200
        self.token: str | None = ""
        self.begun: Any = None
        self.form: dict[str, str] = {}
        self.authorization = ""
        self.rotate("one")

        class Handler(BaseHTTPRequestHandler):
            def answer(self, said: Any, status: int = 200) -> None:
                body = json.dumps(said).encode() if not isinstance(said, bytes) else said
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                forger.requests.append(self.path)
                if self.path == "/.well-known/openid-configuration":
                    self.answer(forger.metadata())
                elif self.path == "/jwks":
                    self.answer(forger.keys.as_dict(private=False))
                else:
                    assert self.headers["Authorization"] == "Bearer an access token"
                    self.answer(forger.userinfo)

            def do_POST(self):
                forger.requests.append(self.path)
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                forger.form = {name: values[0] for name, values in form.items()}
                forger.authorization = self.headers.get("Authorization", "")
                self.answer({"access_token": "an access token", "id_token": forger.id_token()}, forger.status)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def rotate(self, kid: str) -> None:
        """Another key, under a name."""
        from joserfc.jwk import KeySet, RSAKey

        self.key = RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})
        self.keys = KeySet([self.key])

    def metadata(self) -> dict[str, Any]:
        named = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "id_token_signing_alg_values_supported": ["none", "HS256", "RS256"],
        }
        return named | self.changes

    def id_token(self) -> str | None:
        """The one that a test has made, or one with claims."""
        return self.sign() if self.token == "" else self.token

    def sign(self, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        from joserfc import jwt

        said = {
            "iss": self.issuer,
            "sub": "4711",
            "aud": "he-agg",
            "iat": int(time.time()),
            "exp": int(time.time()) + 300,
            "nonce": self.begun.nonce,
            "preferred_username": "otto",
            "groups": ["operators"],
        }
        said = {name: value for name, value in (said | self.claims | claims).items() if value is not None}
        header = header or {"alg": "RS256", "kid": self.key.kid}
        return jwt.encode(header, said, key or self.key, algorithms=[header["alg"]])

    def challenge(self) -> str:
        """What the verifier of the last request proves."""
        return (
            base64.urlsafe_b64encode(hashlib.sha256(self.form["code_verifier"].encode()).digest()).decode().rstrip("=")
        )

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
