"""Why a token is refused, in words, and which setting of its issuer to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

from gatehouse.runtime.doctor.evidence import Evidence, Explanation, shown
from gatehouse.runtime.doctor.refused_claims import (
    AUDIENCE_HINTS,
    explain_audience,
    explain_early,
    explain_expired,
    explain_issuer,
    explain_tenant,
)
from gatehouse.settings import Algorithm

_JWE_DOTS = 4


def explain_text(text: str) -> str:
    """Return why a text is not an access token, and how to fix it."""
    if text.lower().startswith("bearer ") or len(text.split()) > 1:
        return "the input has white space; pass only the token, in one line, without `Bearer`"
    if text.count(".") == _JWE_DOTS:
        return (
            "the token is encrypted (JWE), so only its issuer can read it; request a token for this API, "
            "such as by its audience, or configure the issuer not to encrypt"
        )
    return "the input is not an access token: too long, or with characters that no token has; copy it again"


def explain_refusal(reason: str, evidence: Evidence) -> Explanation:
    """Return why a token is refused.

    Args:
        reason: Reason of the InvalidToken.
        evidence: The token and the settings.
    """
    special = _SPECIAL.get(reason)
    found = Explanation(_TEXTS.get(reason, "the token is refused")) if special is None else special(evidence)
    return Explanation(f"{reason.upper()}: {found.detail}", found.changes, found.now)


_TEXTS = {
    "header_not_understood": "its header has `crit` or `b64`, which need an extension of JWS; configure the "
    "issuer to sign tokens without it",
    "expiry_missing": "it has no `exp`; configure the issuer to issue tokens that expire",
    "claim_malformed": "`exp`, `nbf`, `iat` or `auth_time` is not a number of seconds, or `jti` is not a "
    "string; correct the claim mappers of the issuer",
    "proof_of_possession_missing": "it is bound to a key of its client (`cnf`: DPoP or mutual TLS), and no "
    "proof is checked; turn this off at the issuer",
    "subject_missing": "it has no `sub`; configure the issuer to add it",
    "subject_malformed": "its `sub` is longer than 255 characters or not printable; correct its mapper",
    "actor_malformed": "its `act` (RFC 8693 section 4.1) has no `sub`, or one that is too long or not "
    "printable; correct its mapper",
    "client_malformed": "its client id is too long or not printable; correct `client_id_claims`",
    "subject_mismatch": "its introspection names another `sub`; check that `introspection_endpoint` is that "
    "of its issuer",
    "client_mismatch": "its introspection names another client; check `client_id_claims`",
}


def _malformed(evidence: Evidence) -> Explanation:
    config = evidence.config
    if evidence.token.jws is not None:
        return Explanation("its signature is not base64url; copy the token again")
    if evidence.token.value.count(".") == 2:  # noqa: PLR2004 - header, claims and signature
        return Explanation("it has the parts of a JWT, but they are not JSON in base64url; copy it again")
    text = f"it is opaque, and mode {config.mode} needs a signed token"
    if "introspection" not in config.layout.modes:
        hint = AUDIENCE_HINTS.get(config.provider, "")
        return Explanation(f"{text}; let the client request a signed token for this API{hint}")
    if config.client_id and config.client_secret:
        return Explanation(f"{text}; set `mode` to introspection", {"mode": "introspection"})
    return Explanation(f"{text}; set `mode` to introspection, with `client_id` and `client_secret_file`")


def _inactive(evidence: Evidence) -> Explanation:
    config = evidence.config
    also = ", or the client secret is wrong" if config.provider == "authentik" else ""
    return Explanation(
        "the issuer says that it is not active: expired or revoked, its session has ended, or the client "
        f"{config.client_id} may not introspect it{also}; obtain a new token, and check that client",
        {"mode": "jwt"} if config.mode == "hybrid" else {},
    )


def _algorithm(evidence: Evidence) -> Explanation:
    name, accepted = evidence.header.get("alg"), ", ".join(evidence.config.algorithms)
    if name in get_args(Algorithm):
        changes = {"algorithms": (*evidence.config.algorithms, name)}
        text = f"it is signed with {name}, and `algorithms` has {accepted}; set `algorithms` to {name}"
        return Explanation(text, changes)
    return Explanation(
        f"it is signed with {shown(name)}, which is not an asymmetric algorithm of Gatehouse; let the issuer "
        "sign with ES256 or RS256"
    )


def _key(evidence: Evidence) -> Explanation:
    config = evidence.config
    where = config.jwks_uri or evidence.jwks_uri or config.issuer
    return Explanation(
        f"its key {shown(evidence.header.get('kid'))} is not in the key set of the issuer, {where}; check "
        "that the token is from this issuer and that `jwks_uri`, if set, is its key set"
    )


def _kid(evidence: Evidence) -> Explanation:
    return Explanation(
        f"its header names no key (`kid`), and the issuer has none or several for "
        f"{shown(evidence.header.get('alg'))}; configure the issuer to add `kid`"
    )


def _signature(evidence: Evidence) -> Explanation:
    if "nonce" in evidence.header:
        return Explanation(
            "its signature does not match: it has a `nonce` in its header, as tokens of Entra for Microsoft "
            "Graph do; request a scope of this API"
        )
    return Explanation("its signature does not match the key; copy it again, or obtain it from this issuer")


def _type(evidence: Evidence) -> Explanation:
    config, kind = evidence.config, evidence.header.get("typ", "JWT")
    if evidence.is_id_token:
        return Explanation(
            "it is an ID token, which is for the client that the user logs in to; use the access token "
            "(`access_token` of the token response)"
        )
    if evidence.claims.get("typ") in {"Refresh", "Offline"}:
        return Explanation(
            "it is a refresh token; use the access token (`access_token` of the token response)"
        )
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in {"jwt", "at+jwt"}:
        return Explanation(f"its header has the `typ` {shown(kind)}, so it is not an access token; use that")
    text = (
        f"it has no mark of an access token of provider {config.provider} "
        f"({' or '.join(f'`{mark}`' for mark in config.layout.access_token_marks)})"
    )
    if evidence.providers:
        provider = evidence.providers[0]
        changes = {"provider": provider, "accept_id_tokens": provider == "google"}
        return Explanation(
            f"{text}; set `provider` to {' or '.join(evidence.providers)} if it is that", changes
        )
    also = " or its header `typ` to at+jwt" if config.provider == "generic" else ""
    return Explanation(
        f"{text}: an ID token, a refresh token, or a token of another provider; use the access token, or set "
        f"`provider` or `access_token_marks`{also}"
    )


_SPECIAL: Mapping[str, Callable[[Evidence], Explanation]] = {
    "token_malformed": _malformed,
    "algorithm_not_allowed": _algorithm,
    "key_unknown": _key,
    "kid_missing": _kid,
    "signature_mismatch": _signature,
    "token_type_mismatch": _type,
    "issuer_unknown": explain_issuer,
    "issuer_mismatch": explain_issuer,
    "tenant_not_accepted": explain_tenant,
    "audience_mismatch": explain_audience,
    "token_expired": explain_expired,
    "token_inactive": _inactive,
    "token_not_yet_valid": explain_early,
}
