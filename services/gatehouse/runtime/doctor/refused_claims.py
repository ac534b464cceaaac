"""Why the issuer, the tenant, the audience or the times of a token are refused."""

from __future__ import annotations

from collections.abc import Mapping

from gatehouse.runtime.doctor.evidence import Evidence, Explanation, duration, shown, time_text
from gatehouse.settings import TENANT, ProviderName

_MAX_SECONDS = 1e15
AUDIENCE_HINTS: Mapping[ProviderName, str] = {
    "keycloak": "; an audience mapper in Keycloak adds an audience",
    "auth0": "; a client of Auth0 gets such a token if it requests the `audience`",
    "okta": "; tokens of the org authorization server of Okta are not for your APIs",
    "entra": "; a client of Entra gets such a token if it requests a scope of the API, such as api://ID/.default",
    "zitadel": "; a client of Zitadel requests the scope urn:zitadel:iam:org:project:id:PROJECT:aud",
}


def explain_issuer(evidence: Evidence) -> Explanation:
    """Explain that a token is from another issuer, or from another tenant of it."""
    config, claims = evidence.config, evidence.claims
    name = claims.get("iss")
    if not isinstance(name, str):
        return Explanation("it has no `iss`; configure the issuer to add it")
    # Keys and endpoints stay those of the configured issuer: nothing is sent to a URL from a token.
    endpoint = {"jwks_uri": config.jwks_uri or evidence.jwks_uri}
    changes = {"issuer": name, "tenants": (), **endpoint} if all(endpoint.values()) else {}
    found = f"its issuer (`iss`) is {shown(name)}, and `issuer` is {config.issuer}"
    if "sts.windows.net" in name and "sts.windows.net" not in config.issuer:
        return Explanation(
            f"{found}: a token of version 1.0 of Entra; set `requestedAccessTokenVersion` to 2 in the "
            f"manifest of the API, or `issuer` to {shown(name)} and `discovery_url`, see providers.md",
            changes,
        )
    if "sts.windows.net" in config.issuer and name.endswith("/v2.0"):
        return Explanation(
            f"{found}: a token of version 2.0 of Entra; set `issuer` to {shown(name)}, remove "
            "`discovery_url`, and set `audience` to the id of the application",
            changes,
        )
    if TENANT in config.issuer:
        return explain_tenant(evidence)
    return Explanation(
        f"{found}; set `issuer` to exactly the `iss` if this is the issuer that you trust", changes
    )


def explain_tenant(evidence: Evidence) -> Explanation:
    """Explain that the tenant of a token is not accepted, or does not go with its issuer."""
    config = evidence.config
    claim = config.layout.tenant_claim
    tenant = evidence.claim(claim)
    if not isinstance(tenant, str) or not tenant:
        return Explanation(
            f"it has no claim `{claim}` with its tenant; set `tenant_claim` to the claim that has it"
        )
    expected = config.issuer.replace(TENANT, tenant)
    if TENANT in config.issuer and evidence.claims.get("iss") != expected:
        return Explanation(
            f"its issuer (`iss`) is {shown(evidence.claims.get('iss'))}, but for its tenant (`{claim}`) it "
            f"would be {shown(expected)}; set `issuer` to the `iss`, with {TENANT} in place of the tenant"
        )
    return Explanation(
        f"its tenant (`{claim}`) is {shown(tenant)}, and `tenants` has {', '.join(config.tenants)}; add it "
        "to `tenants` if you trust it",
        {"tenants": (*config.tenants, tenant)},
    )


def explain_audience(evidence: Evidence) -> Explanation:
    """Explain that a token is for another audience, or for none."""
    config, claim = evidence.config, evidence.config.layout.audience_claim
    found = evidence.claim(claim)
    names = [found] if isinstance(found, str) else found
    hint = AUDIENCE_HINTS.get(config.provider, "")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        other = "aud" if claim != "aud" else "client_id"
        if found is None and isinstance(evidence.claims.get(other), str):
            return Explanation(
                f"it has no `{claim}`; request a token for this API{hint}; or, if clients stand for it as in "
                f"Cognito, set `audience_claim` to {other} and `audience` to {shown(evidence.claims[other])}",
                {"audience_claim": other, "audience": (evidence.claims[other],)},
            )
        return Explanation(f"it has no audience (`{claim}`); request a token for this API{hint}")
    configured = f"`audience` is {', '.join(config.audience)}" if config.audience else "`audience` is not set"
    return Explanation(
        f"the token's audience (`{claim}`) is {', '.join(map(shown, names))}, and {configured}; set "
        f"`audience` to {shown(names[0])} if that is this API, otherwise request a token for this API{hint}",
        {"audience": (names[0],)},
    )


def explain_expired(evidence: Evidence) -> Explanation:
    """Explain that a token has expired."""
    end = float(evidence.claims.get("exp", evidence.now))
    return Explanation(
        f"it expired {duration(evidence.now - end)} ago, at {time_text(end)}; obtain a new one, or, if it is "
        "new, synchronize the clocks (NTP)",
        now=end - 1,
    )


def explain_early(evidence: Evidence) -> Explanation:
    """Explain that a token is from the future."""
    times = {name: evidence.claims.get(name) for name in ("nbf", "iat", "auth_time")}
    known = {
        name: float(value)
        for name, value in times.items()
        if isinstance(value, int | float) and value < _MAX_SECONDS
    }
    if not known:
        return Explanation("it is not valid yet; synchronize the clocks (NTP)")
    name = max(known, key=lambda name: known[name])
    ahead, leeway = duration(known[name] - evidence.now), evidence.config.leeway_seconds
    return Explanation(
        f"its `{name}` is {ahead} in the future, more than `leeway_seconds` ({leeway:g}); synchronize the "
        "clocks of this machine and of the issuer (NTP)",
        now=known[name],
    )
