"""Options that name a client at an issuer, and how they become its registration."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from pydantic import ValidationError

from gatehouse.cli._prompt import STANDARD_INPUT, ask_secret
from gatehouse.client.profile import Profile
from gatehouse.client.registration import AuthMethod, Registration, registration_in
from gatehouse.settings import ConfigurationError, validation_message

R = TypeVar("R")


def _option(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Client and issuer")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Options that describe a client; None for an option that is not set. See Registration."""

    issuer: Annotated[str | None, _option("URL of the issuer; by default that of the profile.")] = None
    client_id: Annotated[str | None, _option("Client id; by default that of the profile.")] = None
    auth: Annotated[
        AuthMethod | None, _option("How the client authenticates; by default as the files below require.")
    ] = None
    client_secret_file: Annotated[
        Path | None, _option("File with the secret of the client; - asks, or reads standard input.")
    ] = None
    private_key_file: Annotated[
        Path | None, _option("PEM key that signs for the client, or is that of its certificate.")
    ] = None
    certificate_file: Annotated[
        Path | None, _option("PEM certificate of the client, for mutual TLS (RFC 8705).")
    ] = None
    key_id: Annotated[str | None, _option("Id of the private key at the issuer.")] = None
    algorithm: Annotated[str | None, _option("Signature algorithm of the private key.")] = None
    discovery_url: Annotated[
        str | None, _option("URL of the discovery document, if not under the issuer.")
    ] = None
    ca_file: Annotated[Path | None, _option("PEM certificate authorities to trust for the issuer.")] = None
    audience: Annotated[str | None, _option("Audience to request, which some issuers need.")] = None
    resource: Annotated[str | None, _option("Resource to request (RFC 8707).")] = None

    @property
    def name_a_client(self) -> bool:
        """Whether they name an issuer or a client."""
        return self.issuer is not None or self.client_id is not None

    def registration(
        self,
        profile: Profile,
        stored: Registration | None = None,
        *,
        scope: str | None = None,
        confidential: bool = False,
    ) -> Registration:
        """Return the registration: these options, on those of a stored login or of the profile.

        Args:
            profile: Issuer and console client, if the options name none.
            stored: Registration of the stored login to use instead, if the options name none.
            scope: Scopes to request; None for those of the stored login.
            confidential: Whether the client must authenticate.

        Raises:
            ConfigurationError: An option is missing or invalid.
        """
        given = {name: value for name in _NAMES if (value := getattr(self, name)) is not None}
        if scope is not None:
            given["scope"] = scope
        if given.get("client_secret_file") == STANDARD_INPUT:
            del given["client_secret_file"]
        if stored is not None and not self.name_a_client:
            base: dict[str, Any] = stored.model_dump()
        elif self.issuer in {None, profile.issuer}:
            base = registration_in(profile, self.client_id).model_dump()
        elif self.client_id is None:
            raise ConfigurationError("--issuer: name the client that is registered there with --client-id")
        else:
            base = {}
        auth = self.auth or self._auth() or base.get("auth", "none")
        if confidential and auth == "none":
            auth = "client_secret_basic"
        try:
            return Registration.model_validate(base | given | {"auth": auth})
        except ValidationError as error:
            raise ConfigurationError(f"invalid option: {validation_message(error)}") from None

    def secret(self, registration: Registration, profile: Profile) -> str:
        """Return the secret of the client, "" if it needs none, or it is in a file.

        Raises:
            ConfigurationError: There is no terminal to ask in.
        """
        if not registration.needs_secret:
            return ""
        known = profile.clients.get(registration.client_id)
        if known is not None and registration.issuer == profile.issuer and self.client_secret_file is None:
            return known.get_secret_value()
        what = f"Secret of client {registration.client_id}"
        return ask_secret(what, "--client-secret-file", self.client_secret_file)

    def _auth(self) -> AuthMethod | None:
        if self.certificate_file is not None:
            return "tls_client_auth"
        if self.private_key_file is not None:
            return "private_key_jwt"
        return None if self.client_secret_file is None else "client_secret_basic"


_NAMES = tuple(field.name for field in fields(ClientOptions))


def takes_client_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options of ClientOptions, which it gets as the argument `options`."""
    signature = inspect.signature(command, eval_str=True)
    hints = get_type_hints(ClientOptions, include_extras=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "options"]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hints[name])
        for name in _NAMES
    ]

    @functools.wraps(command)
    def with_options(**given: Any) -> R:
        options = ClientOptions(**{name: given.pop(name) for name in _NAMES})
        return command(**given, options=options)

    # typer reads the options from it.
    with_options.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return with_options
