"""TLS of the aggregator itself, for those who do not put a proxy in front: version 1.2 or newer, nothing to choose."""

from __future__ import annotations

import ipaddress
import ssl
import stat
from pathlib import Path

from he_agg.errors import ConfigError, Reason
from he_agg.host.files import file_trouble
from he_agg.host.shell import quoted
from service.settings import Settings

__all__ = ["check_address", "tls_context"]


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Make the context that the settings ask for; None for plain HTTP.

    Raises:
        ConfigError: half of the settings, or files that cannot be used.
    """
    cert, key, client_ca = _files(settings)
    if cert is None or key is None:
        if cert is not None or key is not None or client_ca is not None:
            raise ConfigError(
                Reason.BAD_CONFIG,
                "expected a certificate and its key, got one without the other",
                "give --tls-cert and --tls-key; --tls-client-ca needs both",
            )
        return None
    if settings.behind_tls_proxy:
        raise ConfigError(
            Reason.BAD_CONFIG,
            "expected TLS here or at a proxy, got both",
            "leave out --behind-tls-proxy; a proxy may speak TLS to the aggregator as any client does",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _check_private(key)
    try:
        # An encrypted key would be asked for on the terminal, and a service has none.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"{cert} and {key}: expected a certificate (with its chain) and its key in PEM form, the key without "
            f"passphrase: {error.strerror or error}",
        ) from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                Reason.BAD_CONFIG, f"{client_ca}: expected certificates in PEM form: {error.strerror or error}"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _files(settings: Settings) -> tuple[Path | None, Path | None, Path | None]:
    """Name certificate, key, and whom clients' certificates have to come from."""
    if not settings.self_signed:
        return settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if settings.url is None or settings.tls_cert is not None or settings.tls_key is not None:
        raise ConfigError(
            Reason.BAD_CONFIG,
            "expected --self-signed with --url and without a certificate of another authority, got "
            + ("no --url" if settings.url is None else "--tls-cert or --tls-key"),
            "say where sites reach this aggregator, such as --url https://aggregator.example.org:8470",
        )
    # Not every aggregator makes one.
    from service.serve.self_signed import own_certificate

    return *own_certificate(settings.data_dir, settings.url), settings.tls_client_ca


def check_address(host: str, settings: Settings) -> None:
    """Refuse plain HTTP where others than this machine could listen in.

    Args:
        settings: say whether there is TLS, here or at a proxy.

    Raises:
        ConfigError: neither.
    """
    tls = settings.tls_cert is not None or settings.self_signed or settings.behind_tls_proxy
    if not tls and not ipaddress.ip_address(host).is_loopback:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"refusing to serve plain HTTP on {host}, which is not this machine alone",
            "give --self-signed, or --tls-cert and --tls-key; or --behind-tls-proxy, if a proxy in front does TLS and "
            "nobody else reaches this address",
        )


def _check_private(key: Path) -> None:
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError as error:
        raise file_trouble(error, f"{key} cannot be read") from error
    if mode & 0o007:
        raise ConfigError(
            Reason.UNSAFE_PERMISSIONS,
            f"{key}: expected a key that only its owner and group may read, got mode {mode:04o}",
            f"chmod o= {quoted(key)}; if anybody may have read it, have a new certificate issued",
        )
