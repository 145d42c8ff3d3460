"""Ask an identity provider who somebody is: OpenID Connect, authorization code with PKCE, `state` and `nonce`.

Signatures, keys and claims are joserfc's, requests httpx's; both come with the extra `oidc`. What is believed of an
answer: that it is for the request that this browser has begun, once; and of its token: who signed it, for whom, until
when and for which request. Nothing is taken from anything that is not signed but the groups of the userinfo endpoint,
which is asked by TLS with the access token of that very sign-in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote, urlencode

from he_agg.errors import ConfigError, Reason
from he_agg.host.files import file_trouble
from service.settings import Settings

__all__ = ["Begun", "Person", "Provider", "SignInError"]

_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
"""Signatures by a key of the provider's. None that a client secret could make, and not none."""

_TIMEOUT_S = 10.0
_FRESH_S = 3600.0
"""How long the provider's addresses and keys are kept. Units: seconds."""

_KEYS_AGAIN_S = 10.0
"""Keys are asked for again if none fits, as after a rotation, but not more often than this. Units: seconds."""

_LEEWAY_S = 60
_MOST_BYTES = 2**20


class SignInError(Exception):
    """Somebody is not let in.

    Args:
        reason: of the closed set `REASONS`, for the event and the page.
        by: who it is, if that is known.
    """

    REASONS = (
        "provider",
        "denied",
        "state",
        "bad-signature",
        "expired",
        "wrong-audience",
        "wrong-issuer",
        "wrong-nonce",
        "bad-token",
        "no-role",
    )

    def __init__(self, reason: str, by: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.by = by


@dataclass(frozen=True)
class Begun:
    """A sign-in that was begun: what its answer has to fit."""

    state: str
    nonce: str
    verifier: str
    redirect_uri: str
    expires_at: float


@dataclass(frozen=True)
class Person:
    """Who has signed in.

    Attributes:
        by: the provider's name for the person and, since people may change that, its identifier.
        may_act: whether the person is in the group of operators; otherwise in that of viewers.
    """

    by: str
    may_act: bool


class Provider:
    """One identity provider.

    Raises:
        ConfigError: the settings do not go together, or the extra `oidc` is not installed.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        if any(find_spec(module) is None for module in ("httpx", "joserfc")):
            raise ConfigError(
                Reason.BAD_CONFIG,
                "people sign in by an identity provider, and httpx or joserfc is not installed",
                "pip install 'he-agg[oidc]'",
            )
        has_group = settings.oidc_operators is not None or settings.oidc_viewers is not None
        if settings.oidc_issuer is None or settings.oidc_client_id is None or not has_group:
            raise ConfigError(
                Reason.BAD_CONFIG,
                "oidc: expected an issuer, a client id, and a group of operators or viewers",
                "--oidc-issuer, --oidc-client-id, and --oidc-operators or --oidc-viewers",
            )
        self.issuer = settings.oidc_issuer
        self._client_id = settings.oidc_client_id
        self._secret = _secret(settings)
        self._settings = settings
        self._clock = clock
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, Any] | None = None

    async def begin(self, redirect_uri: str, expires_at: float) -> tuple[str, Begun]:
        """Return where the browser has to go, and what to keep meanwhile.

        Raises:
            SignInError: `provider`: it does not answer.
        """
        metadata = await self._find()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        begun = Begun(state, nonce, verifier, redirect_uri, expires_at)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(begun.verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": self._settings.oidc_scopes,
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        address = _address(metadata, "authorization_endpoint")
        return f"{address}{'&' if '?' in address else '?'}{urlencode(query)}", begun

    async def finish(self, begun: Begun, answer: Mapping[str, str]) -> Person:
        """Find out who has come back from the provider.

        Args:
            answer: the query that the browser came back with; its `state` has led to `begun`.

        Raises:
            SignInError: the person is not let in.
        """
        # RFC 9207: an answer of another provider's, which somebody slipped in.
        if answer.get("iss", self.issuer) != self.issuer:
            raise SignInError("wrong-issuer")
        if "error" in answer or not answer.get("code"):
            raise SignInError("denied")
        metadata = await self._find()
        tokens = await self._redeem(metadata, begun, answer["code"])
        claims = await self._check(tokens.get("id_token"), begun)
        by = _named(claims)
        groups = _groups(claims, self._settings.oidc_groups_claim)
        if groups is None and "userinfo_endpoint" in metadata:
            groups = await self._ask_groups(metadata, tokens, claims)
        for group, may_act in ((self._settings.oidc_operators, True), (self._settings.oidc_viewers, False)):
            if group is not None and group in (groups or ()):
                return Person(by, may_act)
        raise SignInError("no-role", by)

    async def _redeem(self, metadata: dict[str, Any], begun: Begun, code: str) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": begun.redirect_uri,
            "code_verifier": begun.verifier,
        }
        headers = {}
        ways = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if self._secret is None or "client_secret_basic" not in ways:
            form["client_id"] = self._client_id
            if self._secret is not None:
                form["client_secret"] = self._secret
        else:
            pair = f"{quote(self._client_id, safe='')}:{quote(self._secret, safe='')}"  # RFC 6749, 2.3.1
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return await self._request("POST", _address(metadata, "token_endpoint"), "denied", data=form, headers=headers)

    async def _check(self, token: object, begun: Begun) -> dict[str, Any]:
        """Check an ID token, and return what it says."""
        from joserfc import errors, jwt
        from joserfc.jws import JWSRegistry

        registry = JWSRegistry(algorithms=_ALGORITHMS, strict_check_header=False)
        if not isinstance(token, str):
            raise SignInError("bad-token")
        try:
            try:
                read = jwt.decode(token, await self._find_keys(), registry=registry)
            except (errors.InvalidKeyIdError, errors.BadSignatureError):
                read = jwt.decode(token, await self._find_keys(again=True), registry=registry)
            jwt.JWTClaimsRegistry(
                now=int(self._clock()),
                leeway=_LEEWAY_S,
                iss={"essential": True, "value": self.issuer},
                sub={"essential": True},
                aud={"essential": True, "value": self._client_id},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True, "value": begun.nonce},
            ).validate(read.claims)
        except (errors.InvalidKeyIdError, errors.BadSignatureError):
            raise SignInError("bad-signature") from None
        except errors.ExpiredTokenError:
            raise SignInError("expired") from None
        except errors.InvalidClaimError as error:
            which = {"aud": "wrong-audience", "iss": "wrong-issuer", "nonce": "wrong-nonce"}
            raise SignInError(which.get(error.claim, "bad-token")) from None
        except (errors.JoseError, ValueError, TypeError):
            raise SignInError("bad-token") from None
        claims = dict(read.claims)
        # For several audiences it has to say which one has asked for it.
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else self._client_id) != self._client_id:
            raise SignInError("wrong-audience")
        return claims

    async def _ask_groups(
        self, metadata: dict[str, Any], tokens: dict[str, Any], claims: dict[str, Any]
    ) -> list[str] | None:
        headers = {"Authorization": f"Bearer {tokens.get('access_token', '')}"}
        said = await self._request("GET", _address(metadata, "userinfo_endpoint"), "provider", headers=headers)
        if said.get("sub") != claims["sub"]:
            raise SignInError("bad-token")
        return _groups(said, self._settings.oidc_groups_claim)

    async def _find(self) -> dict[str, Any]:
        """Return the provider's own description of itself."""
        if self._metadata is None or self._clock() > self._metadata[0] + _FRESH_S:
            address = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
            metadata = await self._request("GET", address, "provider")
            if metadata.get("issuer") != self.issuer:
                raise SignInError("wrong-issuer")
            self._metadata = (self._clock(), metadata)
        return self._metadata[1]

    async def _find_keys(self, *, again: bool = False) -> Any:
        from joserfc.jwk import KeySet

        now = self._clock()
        old = _KEYS_AGAIN_S if again else _FRESH_S
        if self._keys is None or now > self._keys[0] + old:
            found = await self._request("GET", _address(await self._find(), "jwks_uri"), "provider")
            self._keys = (now, KeySet.import_key_set(found))  # type: ignore[arg-type]
        return self._keys[1]

    async def _request(self, method: str, address: str, reason: str, **more: Any) -> dict[str, Any]:
        """Send a request to the provider.

        Args:
            reason: of the error if it refuses. If it does not answer at all, that is `provider`.
        """
        import httpx

        try:
            async with (
                httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False) as client,
                client.stream(method, address, **more) as answer,
            ):
                body = b""
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise SignInError("provider")
            if answer.status_code >= 500:
                raise SignInError("provider")
            if answer.status_code != 200:
                raise SignInError(reason)
            said = json.loads(body)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            raise SignInError("provider") from None
        if not isinstance(said, dict):
            raise SignInError("provider")
        return said


def _secret(settings: Settings) -> str | None:
    path = settings.oidc_client_secret_file
    if path is None:
        return None
    try:
        return path.read_text().strip()
    except OSError as error:
        raise file_trouble(error, f"{path} cannot be read") from error


def _address(metadata: dict[str, Any], name: str) -> str:
    address = metadata.get(name)
    if not isinstance(address, str):
        raise SignInError("provider")
    return address


def _named(claims: dict[str, Any]) -> str:
    """Return the provider's name for a person, with its identifier, which the person cannot choose."""
    names = (claims.get(claim) for claim in ("preferred_username", "email", "name"))
    name = next((each for each in names if isinstance(each, str) and each), "")
    return str(claims["sub"]) if name in ("", claims["sub"]) else f"{name} ({claims['sub']})"


def _groups(claims: dict[str, Any], claim: str) -> list[str] | None:
    """Return the groups that a claim names, which may be inside of others (`realm_access.roles`); None without it."""
    found: Any = claims
    for name in [claim] if claim in claims else claim.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, str):
        return [found]
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else None
