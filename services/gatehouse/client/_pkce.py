"""Proof Key for Code Exchange (RFC 7636) with S256."""

from __future__ import annotations

import base64
import hashlib
import secrets


def new_verifier() -> str:
    """Return a new code verifier with 256 random bits."""
    return secrets.token_urlsafe(32)


def challenge(verifier: str) -> dict[str, str]:
    """Return the parameters of an authorization request that commit to `verifier`."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
    return {"code_challenge": digest.rstrip(b"=").decode(), "code_challenge_method": "S256"}
