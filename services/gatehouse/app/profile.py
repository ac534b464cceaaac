"""Profiles with the targets of all services filled in."""

from __future__ import annotations

from pathlib import Path

from gatehouse.app.services import SERVICES, settings_model
from gatehouse.client.profile import Profile, load_profile, local_host, local_target, profile_file
from gatehouse.settings import Settings, load_settings


def load_full_profile() -> Profile:
    """Load the profile; a service without a target is on its default port on this machine.

    Raises:
        ConfigurationError: See load_profile.
    """
    profile = load_profile()
    targets = {name: f"127.0.0.1:{spec.default_port}" for name, spec in SERVICES.items()}
    return profile.model_copy(update={"targets": targets | profile.targets})


def local_profile() -> Profile:
    """Load the profile if one is named, otherwise derive it from the settings of the servers here.

    A probe or a call beside a server therefore needs no further configuration.

    Raises:
        ConfigurationError: See load_profile and load_settings.
    """
    if profile_file() is not None:
        return load_full_profile()
    return server_profile(load_settings(settings_model()))


def server_profile(settings: Settings) -> Profile:
    """Return the profile of a client on this machine, from the settings of the servers."""
    host = local_host(settings.server.host)
    return Profile(
        targets={name: local_target(settings.server.host, getattr(settings, name).port) for name in SERVICES},
        ca_file=settings.tls.ca_file,
        server_name=settings.tls.server_name or _certificate_name(settings.tls.certificate_file, host),
        plaintext=settings.tls.plaintext,
    )


def _certificate_name(file: Path | None, host: str) -> str | None:
    """Return a host name in a certificate, or None if `host` is in it or there is none."""
    if file is None:
        return None
    from cryptography import x509  # noqa: PLC0415 - takes long, and most probes need no name

    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return None  # the server reports what is wrong with it
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    hosts = names.get_values_for_type(x509.DNSName)
    if host in {*addresses, *hosts} or not hosts:
        return None
    return hosts[0].replace("*", "any", 1)
