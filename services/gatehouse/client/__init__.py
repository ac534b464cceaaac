"""What a caller needs: token sources, channels that authorize calls, JSON calls, health checks, profiles."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatehouse.client.authorization_request import AuthorizationRequest
    from gatehouse.client.browser_login import login_in_browser
    from gatehouse.client.call_credentials import NO_TOKEN, TokenCallCredentials
    from gatehouse.client.channel import connect
    from gatehouse.client.client_auth import (
        ClientAuth,
        ClientSecretBasic,
        ClientSecretPost,
        PublicClient,
        TlsClientAuth,
    )
    from gatehouse.client.client_credentials import ClientCredentials
    from gatehouse.client.device_login import DevicePrompt, login_on_device
    from gatehouse.client.fixed_token import FileToken, StaticToken
    from gatehouse.client.keyring_store import KeyringStore
    from gatehouse.client.login_errors import (
        LoginCancelled,
        LoginRequired,
        TokenFileError,
        TokenStoreError,
    )
    from gatehouse.client.login_store import FileStore, Login, LoginStore, MemoryStore
    from gatehouse.client.oauth_client import OAuthClient
    from gatehouse.client.on_behalf import ExchangedTokens
    from gatehouse.client.password import PasswordGrant
    from gatehouse.client.private_key_jwt import PrivateKeyJwt
    from gatehouse.client.refresh import Refresh
    from gatehouse.client.shared_grant import SharedGrant
    from gatehouse.client.sync_channel import create_oauth2_channel
    from gatehouse.client.token_endpoint import TokenResponse, introspect, request_token, revoke
    from gatehouse.client.token_exchange import TokenExchange, refuses_subject
    from gatehouse.client.token_manager import Grant, TokenManager
    from gatehouse.client.token_source import TokenSource

__all__ = [
    "NO_TOKEN",
    "AuthorizationRequest",
    "ClientAuth",
    "ClientCredentials",
    "ClientSecretBasic",
    "ClientSecretPost",
    "DevicePrompt",
    "ExchangedTokens",
    "FileStore",
    "FileToken",
    "Grant",
    "KeyringStore",
    "Login",
    "LoginCancelled",
    "LoginRequired",
    "LoginStore",
    "MemoryStore",
    "OAuthClient",
    "PasswordGrant",
    "PrivateKeyJwt",
    "PublicClient",
    "Refresh",
    "SharedGrant",
    "StaticToken",
    "TlsClientAuth",
    "TokenCallCredentials",
    "TokenExchange",
    "TokenFileError",
    "TokenManager",
    "TokenResponse",
    "TokenSource",
    "TokenStoreError",
    "connect",
    "create_oauth2_channel",
    "introspect",
    "login_in_browser",
    "login_on_device",
    "refuses_subject",
    "request_token",
    "revoke",
]

_MODULES = {
    "AuthorizationRequest": "authorization_request",
    "ClientAuth": "client_auth",
    "ClientCredentials": "client_credentials",
    "ClientSecretBasic": "client_auth",
    "ClientSecretPost": "client_auth",
    "DevicePrompt": "device_login",
    "ExchangedTokens": "on_behalf",
    "FileStore": "login_store",
    "FileToken": "fixed_token",
    "Grant": "token_manager",
    "KeyringStore": "keyring_store",
    "Login": "login_store",
    "LoginCancelled": "login_errors",
    "LoginRequired": "login_errors",
    "LoginStore": "login_store",
    "MemoryStore": "login_store",
    "NO_TOKEN": "call_credentials",
    "OAuthClient": "oauth_client",
    "PasswordGrant": "password",
    "PrivateKeyJwt": "private_key_jwt",
    "PublicClient": "client_auth",
    "Refresh": "refresh",
    "SharedGrant": "shared_grant",
    "StaticToken": "fixed_token",
    "TlsClientAuth": "client_auth",
    "TokenCallCredentials": "call_credentials",
    "TokenExchange": "token_exchange",
    "TokenFileError": "login_errors",
    "TokenManager": "token_manager",
    "TokenStoreError": "login_errors",
    "TokenSource": "token_source",
    "connect": "channel",
    "create_oauth2_channel": "sync_channel",
    "login_in_browser": "browser_login",
    "login_on_device": "device_login",
    "refuses_subject": "token_exchange",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used (PEP 562).

    `gatehouse healthcheck` imports this package and runs every few seconds. Without httpx and the server code
    it needs half of the CPU time.
    """
    if name not in __all__:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'token_endpoint')}"), name)
