"""Tell coordinators what they need of this aggregator: its public key and its address, in one file."""

from __future__ import annotations

from urllib.parse import urlsplit

from he_agg.documents.address import Address
from he_agg.host.addresses import is_this_machine
from he_agg.host.files import file_trouble, replace
from service.core.aggregator_key import AggregatorKey
from service.settings import Settings

__all__ = ["PUBLIC_FILE", "told_to_coordinators"]

PUBLIC_FILE = "aggregator.public.json"


def told_to_coordinators(settings: Settings, key: AggregatorKey) -> list[str]:
    """Write the public file, if it is known where sites reach this aggregator.

    Returns:
        What the operator is told.
    """
    if settings.url is None:
        return []
    certificate = ""
    if settings.self_signed:
        from service.serve.self_signed import certificate_of, own_certificate

        certificate = certificate_of(own_certificate(settings.data_dir, settings.url)[0])
    path = settings.data_dir / PUBLIC_FILE
    try:
        replace(path, key.public_file(Address(settings.url, certificate)), 0o644)
    except OSError as error:
        raise file_trouble(error, f"{path} cannot be written") from error
    lines = [
        f"for the coordinator, not secret: {path}",
        f"fingerprint, to read to the coordinator over the phone: {key.member.fingerprint}",
    ]
    away = not is_this_machine(urlsplit(settings.url).hostname or "")
    if away and not settings.behind_tls_proxy and is_this_machine(settings.host.strip("[]")):
        lines.append(f"other machines do not reach {settings.host}; --host 0.0.0.0 is all addresses of this one")
    return lines
