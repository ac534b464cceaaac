"""Profiles with the targets of all services filled in."""

from __future__ import annotations

from gatehouse.app.services import SERVICES, settings_model
from gatehouse.client.profile import Profile, load_profile, profile_file
from gatehouse.settings import load_settings

_ANY_ADDRESS = {"0.0.0.0", "::", "[::]"}  # noqa: S104 - compared only


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

    A probe in the container of a server therefore needs no further configuration.

    Raises:
        ConfigurationError: See load_profile and load_settings.
    """
    if profile_file() is not None:
        return load_full_profile()
    settings = load_settings(settings_model())
    host = "127.0.0.1" if settings.server.host in _ANY_ADDRESS else settings.server.host
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return Profile(
        targets={name: f"{host}:{getattr(settings, name).port}" for name in SERVICES},
        ca_file=settings.tls.ca_file,
        plaintext=settings.tls.plaintext,
    )
