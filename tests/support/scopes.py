"""The scopes and roles of the access rules."""

from __future__ import annotations

from gatehouse.app.policy import policy_rows

# All scopes that a rule requires, separated by spaces.
EVERY_SCOPE = " ".join(sorted({scope for row in policy_rows() for scope in row.rule.scopes}))
# All roles that a rule names.
EVERY_ROLE = tuple(sorted({role for row in policy_rows() for role in row.rule.roles}))
