"""The OAuth2 clients of AdminService: towards UserService, and towards the identity provider."""

from __future__ import annotations

from gatehouse.admin.keycloak import KeycloakRoleDirectory
from gatehouse.admin.settings import AdminSettings
from gatehouse.client import (
    ClientCredentials,
    ClientSecretBasic,
    ExchangedTokens,
    OAuthClient,
    TokenManager,
)
from gatehouse.runtime import ServiceContext
from gatehouse.runtime.on_behalf import CallerTokens
from gatehouse.settings import (
    TENANT,
    ConfigurationError,
    IssuerSettings,
    OAuthClientSettings,
    follow_secret,
)

CLIENT = "GATEHOUSE_ADMIN__CLIENT"
CALL_USERS_AS = "GATEHOUSE_ADMIN__CALL_USERS_AS"
ROLE_SYNC = "GATEHOUSE_ADMIN__ROLE_SYNC"

_Context = ServiceContext[AdminSettings]


def issuer_of(context: _Context, settings: OAuthClientSettings) -> str:
    """Return the issuer at which a client is registered."""
    return settings.issuer or context.issuers[0].issuer


def client_credentials(context: _Context, settings: OAuthClientSettings, name: str) -> TokenManager:
    """Return a token source for the client in the section `name`.

    Raises:
        ConfigurationError: Its id or secret is missing.
    """
    client, issuer = _oauth_client(context, settings, name), issuer_of(context, settings)
    tokens = TokenManager(
        ClientCredentials(client, settings.scope, settings.audience, settings.resource),
        on_response=lambda error: context.issuer_asked(issuer, f"token of {settings.client_id}", error),
        monotonic=context.monotonic,
    )
    context.exit_stack.push_async_callback(tokens.aclose)
    return tokens


def caller_tokens(context: _Context) -> CallerTokens:
    """Return a token source for calls of UserService on behalf of callers.

    Raises:
        ConfigurationError: The settings of the client do not fit.
    """
    exchanged, settings = exchanged_tokens(context), context.settings.client
    accepted = _accepted(context, settings)
    return CallerTokens(
        exchanged, issuer_of(context, settings), "" if accepted is None else accepted.scope_prefix
    )


def exchanged_tokens(context: _Context) -> ExchangedTokens:
    """Return what exchanges tokens of callers for tokens for UserService.

    Raises:
        ConfigurationError: The settings of the client do not fit.
    """
    settings = context.settings.client
    client, issuer = _oauth_client(context, settings, CLIENT), issuer_of(context, settings)
    accepted = _accepted(context, settings)
    if accepted is None:
        raise ConfigurationError(
            f"{CLIENT}__ISSUER: not in GATEHOUSE_ISSUERS, so it does not issue the tokens of callers; "
            f"set one of them, or {CALL_USERS_AS}=service"
        )
    if not settings.scope.split():
        # Without scopes in the request, the issuer would choose them.
        raise ConfigurationError(f"{CLIENT}__SCOPE: required by {CALL_USERS_AS}=caller; set read:users")
    return ExchangedTokens(
        client,
        settings.scope,
        settings.audience or "",
        settings.resource,
        sensitive_scopes={
            accepted.scope_prefix + scope for rule in context.rules.values() for scope in rule.scopes
        },
        on_response=lambda error: context.issuer_asked(
            issuer, f"token exchange of {settings.client_id}", error
        ),
        clock=context.clock,
        monotonic=context.monotonic,
    )


def role_directory(context: _Context) -> KeycloakRoleDirectory:
    """Return the directory that `role_sync` names.

    Raises:
        ConfigurationError: Its URL is unset or invalid, or its client is incomplete.
    """
    settings = context.settings.role_sync
    tokens = client_credentials(context, settings, ROLE_SYNC)
    try:
        return KeycloakRoleDirectory(
            context.http_for(settings), tokens, settings.admin_url or "", allow_http=settings.allow_http
        )
    except ValueError as error:
        raise ConfigurationError(
            f"{ROLE_SYNC}__ADMIN_URL: {error}; use https, or http on loopback or with "
            f"{ROLE_SYNC}__ALLOW_HTTP=true"
        ) from None


def _accepted(context: _Context, settings: OAuthClientSettings) -> IssuerSettings | None:
    """Return the accepted issuer at which a client is registered, if it is one of them."""
    issuer = issuer_of(context, settings)
    return next((other for other in context.issuers if other.issuer == issuer), None)


def _oauth_client(context: _Context, settings: OAuthClientSettings, name: str) -> OAuthClient:
    if not settings.client_id or not settings.client_secret:
        raise ConfigurationError(
            f"{name}__CLIENT_ID and {name}__CLIENT_SECRET: required by AdminService; set both"
        )
    issuer, accepted = issuer_of(context, settings), _accepted(context, settings)
    if TENANT in issuer:
        raise ConfigurationError(f"{name}__ISSUER: required, because the issuer in ISSUERS contains {TENANT}")
    setting = f"{name.removeprefix('GATEHOUSE_')}__client_secret".lower()
    read_secret = follow_secret(setting, settings.client_secret, settings.client_secret_file)
    return OAuthClient(
        context.http_for(settings),
        settings.client_id,
        ClientSecretBasic(lambda: read_secret() or ""),
        issuer=issuer,
        discovery_url=settings.discovery_url or (accepted.discovery_url if accepted else None),
        allow_http=settings.allow_http,
    )
