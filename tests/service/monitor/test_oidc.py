"""What the page believes of an identity provider, and what it refuses, against one whose answers are spoilt."""

import asyncio
import base64
import hmac
import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from he_agg.errors import ConfigError
from service.monitor.dashboard.oidc import Person, Provider, SignInError
from service.monitor.dashboard.sessions import Session, Sessions
from service.settings import Settings
from tests.support.identity import SECRET, Forger

pytest.importorskip("joserfc", reason="joserfc is not installed: pip install 'he-agg[dev]'")
REDIRECT = "https://ops.example/he-agg/signed-in"


@pytest.fixture
def forger():
    forger = Forger()
    yield forger
    forger.close()


@pytest.fixture
def now():
    return [time.time()]


@pytest.fixture
def provider(forger, tmp_path, now):
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    settings = Settings(
        oidc_issuer=forger.issuer,
        oidc_client_id="he-agg",
        oidc_client_secret_file=secret,
        oidc_operators="operators",
        oidc_viewers="viewers",
    )
    return Provider(settings, lambda: now[0])


def b64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def begin(forger, provider):
    address, forger.begun = asyncio.run(provider.begin(REDIRECT, time.time() + 600))
    return parse_qs(urlsplit(address).query)


def finish(forger, provider, **answer):
    if forger.begun is None:
        begin(forger, provider)
    return asyncio.run(provider.finish(forger.begun, {"code": "a code", **answer}))


def refused(forger, provider, **answer):
    with pytest.raises(SignInError) as refused:
        finish(forger, provider, **answer)
    assert refused.value.reason in SignInError.REASONS
    return refused.value.reason


def test_the_request_and_the_code(forger, provider):
    query = begin(forger, provider)
    assert {name: query[name] for name in ("response_type", "client_id", "redirect_uri", "scope")} == {
        "response_type": ["code"],
        "client_id": ["he-agg"],
        "redirect_uri": [REDIRECT],
        "scope": ["openid profile"],
    }
    assert query["code_challenge_method"] == ["S256"]
    assert finish(forger, provider) == Person("otto (4711)", True)
    assert [forger.challenge()] == query["code_challenge"]
    assert forger.form.items() >= {"code": "a code", "redirect_uri": REDIRECT}.items()
    assert base64.b64decode(forger.authorization.removeprefix("Basic ")) == b"he-agg:a%20secret%2Fwith%3A%20signs%25"
    assert len({query[name][0] for name in ("state", "nonce", "code_challenge")}) == 3


@pytest.mark.parametrize(
    ("claims", "person"),
    [
        ({"groups": ["others", "viewers"]}, Person("otto (4711)", False)),
        ({"groups": ["viewers", "operators"]}, Person("otto (4711)", True)),
        ({"groups": "viewers"}, Person("otto (4711)", False)),
        ({"aud": ["he-agg", "another"], "azp": "he-agg"}, Person("otto (4711)", True)),
        ({"preferred_username": None, "email": "o@example.org"}, Person("o@example.org (4711)", True)),
        ({"preferred_username": None}, Person("4711", True)),
    ],
)
def test_who_somebody_is(forger, provider, claims, person):
    forger.claims = claims
    assert finish(forger, provider) == person


def test_groups_of_the_userinfo_endpoint_and_only_of_the_same_person(forger, provider):
    forger.changes = {"userinfo_endpoint": f"{forger.issuer}/userinfo"}
    forger.claims = {"groups": None}
    forger.userinfo = {"sub": "4711", "groups": ["viewers"]}
    assert finish(forger, provider) == Person("otto (4711)", False)
    forger.userinfo["sub"] = "4712"
    assert refused(forger, provider) == "bad-token"


def test_groups_inside_of_a_claim(forger, provider):
    provider._settings = provider._settings.model_copy(update={"oidc_groups_claim": "realm_access.roles"})
    forger.claims = {"realm_access": {"roles": ["operators"]}, "groups": None}
    assert finish(forger, provider).may_act
    forger.claims = {"realm_access": "operators", "groups": ["operators"]}
    assert refused(forger, provider) == "no-role"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "another"}, "wrong-audience"),
        ({"aud": ["another", "third"]}, "wrong-audience"),
        ({"azp": "another"}, "wrong-audience"),
        ({"aud": ["he-agg", "another"]}, "wrong-audience"),  # and does not say for whom
        ({"aud": None}, "bad-token"),
        ({"iss": "https://evil.example"}, "wrong-issuer"),
        ({"iss": None}, "bad-token"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "bad-token"),
        ({"iat": 2**40}, "bad-token"),
        ({"nonce": "another"}, "wrong-nonce"),
        ({"nonce": None}, "bad-token"),
        ({"sub": None}, "bad-token"),
        ({"sub": 4711}, "bad-token"),
        ({"groups": ["others"]}, "no-role"),
        ({"groups": None}, "no-role"),
        ({"groups": {"operators": True}}, "no-role"),
    ],
)
def test_a_token_that_does_not_fit(forger, provider, claims, reason):
    forger.claims = claims
    assert refused(forger, provider) == reason


def test_a_token_that_nobody_has_signed_who_may(forger, provider):
    from joserfc.jwk import RSAKey

    begin(forger, provider)
    own = RSAKey.generate_key(2048, {"kid": "one"})
    forger.token = forger.sign(own)
    assert refused(forger, provider) == "bad-signature"
    forger.token = forger.sign(own, {"alg": "RS256", "kid": "unknown"})
    assert refused(forger, provider) == "bad-signature"
    body = forger.sign().split(".")[1]
    head = b64(json.dumps({"alg": "none"}).encode())
    forger.token = f"{head}.{body}."
    assert refused(forger, provider) == "bad-token"
    # By the client's secret, which is known to more than the provider; and by the public key as if it were a secret.
    for secret in (SECRET.encode(), forger.key.as_pem(private=False)):
        head = b64(json.dumps({"alg": "HS256", "kid": "one"}).encode())
        forger.token = f"{head}.{body}.{b64(hmac.digest(secret, f'{head}.{body}'.encode(), 'sha256'))}"
        assert refused(forger, provider) == "bad-token"
    for token in (None, "", "x", "a.b.c", 7):
        forger.token = token if token != "" else "."
        assert refused(forger, provider) == "bad-token"


def test_keys_that_were_changed_are_found_and_not_asked_for_all_the_time(forger, provider, now):
    assert finish(forger, provider).may_act
    assert forger.requests.count("/jwks") == 1
    now[0] += 20
    forger.rotate("two")
    assert finish(forger, provider).may_act
    forger.rotate("two")  # the same name for another key
    assert refused(forger, provider) == "bad-signature"
    assert forger.requests.count("/jwks") == 2, "somebody who sends wrong tokens has us ask no more than that"
    now[0] += 20
    assert finish(forger, provider).may_act
    assert forger.requests.count("/.well-known/openid-configuration") == 1


def test_a_provider_that_does_not_do_as_it_should(forger, provider, now):
    assert refused(forger, provider, error="access_denied") == "denied"
    assert refused(forger, provider, iss="https://evil.example") == "wrong-issuer"
    for status, reason in ((400, "denied"), (500, "provider")):
        forger.status = status
        assert refused(forger, provider) == reason
    now[0] += 4000
    forger.changes = {"issuer": "https://evil.example"}
    assert refused(forger, provider) == "wrong-issuer"
    forger.changes = {"token_endpoint": None}
    assert refused(forger, provider) == "provider"
    now[0] += 4000
    forger.changes = {"padding": "x" * 2**21}
    assert refused(forger, provider) == "provider"


def test_a_provider_that_is_away(forger, provider):
    begin(forger, provider)
    provider._metadata = None
    forger.close()
    with pytest.raises(SignInError, match="provider"):
        asyncio.run(provider.finish(forger.begun, {"code": "x"}))
    forger._server.server_close = forger._server.shutdown = lambda: None


@pytest.mark.parametrize("given", [{}, {"oidc_client_id": "x"}, {"oidc_viewers": "x"}])
def test_settings_that_do_not_go_together(given):
    with pytest.raises(ConfigError, match="expected an issuer, a client id, and a group"):
        Provider(Settings(oidc_issuer="https://id.example", **given))


def test_sessions_end_by_themselves_by_number_and_when_told():
    now = [1000.0]
    sessions = Sessions(lambda: now[0])
    mine = [sessions.begin(Session("otto", True, "oidc", 1100)) for _ in range(7)]
    theirs = sessions.begin(Session("vera", False, "oidc", 1200))
    assert [sessions.find(each) is not None for each in mine] == [False] * 2 + [True] * 5
    sessions.end(mine[6])
    assert sessions.find(mine[6]) is None
    now[0] = 1100
    assert [sessions.find(each) for each in mine] == [None] * 7
    assert sessions.find(theirs) == Session("vera", False, "oidc", 1200)
    assert sessions.find("") is None
    others = [sessions.begin(Session(f"p{number}", False, "oidc", 1200)) for number in range(1000)]
    assert sessions.find(theirs) is None
    assert sessions.find(others[0]) is not None
