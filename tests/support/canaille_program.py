"""A real identity provider (Canaille) with its users in memory. Prints its address; ends when its stdin does.

Each argument is a redirect address of the one client, `he-agg`, whose secret is "a secret/with: signs%".
"""

from __future__ import annotations

import sys
import threading
import warnings
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

warnings.simplefilter("ignore")  # of its own packages

USERS = {"otto": "operators", "vera": "viewers", "nina": None}
"""Their groups. The password is the name, and " is my password" behind it."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def _not_yet(*_):
    raise RuntimeError("it has not begun")


def main() -> None:
    from canaille import create_app
    from canaille.app import models
    from canaille.backends import Backend
    from joserfc.jwk import RSAKey

    key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
    server = make_server("127.0.0.1", 0, _not_yet, _Server, _Quiet)
    address = f"127.0.0.1:{server.server_port}"
    app = create_app(
        config={
            "SECRET_KEY": "only for tests",
            "SERVER_NAME": address,
            "PREFERRED_URL_SCHEME": "http",
            "CANAILLE": {"DATABASE": "memory", "JAVASCRIPT": False, "TIMEZONE": "UTC"},
            "CANAILLE_OIDC": {"ACTIVE_JWKS": [key.as_dict(private=True)]},
        }
    )
    with app.app_context():
        backend = Backend.instance
        for name, group in USERS.items():
            user = models.User(
                user_name=name,
                formatted_name=name.title(),
                family_name=name.title(),
                display_name=f"Dr {name.title()}",
                emails=[f"{name}@example.org"],
                password=f"{name} is my password",
            )
            backend.save(user)
            if group is not None:
                backend.save(models.Group(display_name=f"he-agg-{group}", members=[user]))
        client = models.Client(
            client_id="he-agg",
            client_secret="a secret/with: signs%",
            client_name="he-agg",
            client_uri="http://127.0.0.1",  # one that it trusts: nobody is asked for consent
            redirect_uris=sys.argv[1:],
            grant_types=["authorization_code"],
            response_types=["code"],
            scope=["openid", "profile", "groups"],
            token_endpoint_auth_method="client_secret_basic",
        )
        backend.save(client)
        client.audience = [client]
        backend.save(client)
    server.set_app(app)
    print(f"http://{address}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
