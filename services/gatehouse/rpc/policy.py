"""The access policy: a rule for every RPC, from its proto or from the options of the server."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from google.protobuf.descriptor import MethodDescriptor

from gatehouse.authz.v1 import authz_pb2
from gatehouse.oauth import InsufficientScope, InsufficientUserAuthentication, Principal

# RFC 6749 section 3.3. Scopes and acr values appear in quotes in a challenge.
_PRINTABLE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")


class PolicyError(Exception):
    """The policy is incomplete or contradicts itself; the message names the RPC and the fix."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Who may call an RPC; see protos/gatehouse/authz/v1/authz.proto.

    Attributes:
        public: Anyone may call.
        authenticated: Any valid token is enough.
        scopes: The token must have all of them.
        roles: If not empty, the principal must have one of them.
        acr: If not empty, the authentication context class that the login must have (RFC 9470).
        max_age: Longest time since the login, in seconds, or None (RFC 9470).
        online: Introspect the token on each call instead of trusting a cached result.
    """

    public: bool = False
    authenticated: bool = False
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    acr: str = ""
    max_age: int | None = None
    online: bool = False

    @classmethod
    def from_proto(cls, rule: authz_pb2.AccessRule) -> AccessRule:
        """Build a rule from the method option."""
        return cls(
            public=rule.public,
            authenticated=rule.authenticated,
            scopes=frozenset(rule.scopes),
            roles=frozenset(rule.roles),
            acr=rule.acr,
            max_age=rule.max_age.seconds if rule.HasField("max_age") else None,
            online=rule.online,
        )

    def to_proto(self) -> authz_pb2.AccessRule:
        """Return this rule as a method option."""
        message = authz_pb2.AccessRule(
            public=self.public,
            authenticated=self.authenticated,
            scopes=sorted(self.scopes),
            roles=sorted(self.roles),
            acr=self.acr,
            online=self.online,
        )
        if self.max_age is not None:
            message.max_age.seconds = self.max_age
        return message

    def check(self, principal: Principal, now: float) -> None:
        """Raise an error if the principal does not satisfy the rule.

        Args:
            principal: Who calls.
            now: Seconds since the epoch.

        Raises:
            InsufficientScope: A scope is missing, or all roles are.
            InsufficientUserAuthentication: The login is too weak or too old (RFC 9470 section 3).
        """
        self.check_token(principal, now)
        if self.roles and not any(role in principal.roles for role in self.roles):
            raise InsufficientScope("role_missing", sorted(self.scopes))

    def check_token(self, principal: Principal, now: float) -> None:
        """Check scopes and login, which stay the same for the life of a token; see `check`."""
        if not self.scopes <= principal.scopes:
            raise InsufficientScope("insufficient_scope", sorted(self.scopes))
        if self.acr and principal.acr != self.acr:
            raise InsufficientUserAuthentication("acr_mismatch", self.acr, self.max_age)
        if self.max_age is not None and (
            principal.auth_time is None or now - principal.auth_time > self.max_age
        ):
            raise InsufficientUserAuthentication("login_too_old", self.acr, self.max_age)

    def __str__(self) -> str:
        if self.public:
            return "public"
        parts = ["authenticated"] if self.authenticated else sorted(self.scopes)
        if self.roles:
            parts.append("role " + " or ".join(sorted(self.roles)))
        if self.acr:
            parts.append(f"acr {self.acr}")
        if self.max_age is not None:
            parts.append(f"login within {self.max_age} s")
        if self.online:
            parts.append("checked online")
        return " + ".join(parts)


PUBLIC = AccessRule(public=True)


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """Access rules for RPCs that have none in their proto, such as those of other organizations.

    Attributes:
        method_scopes: Scopes, or a whole rule, by `package.Service/Method`; takes precedence over the proto.
        default_scopes: Scopes of RPCs that have no rule anywhere.
        public_methods: RPCs that anyone may call; takes precedence over the proto.
    """

    method_scopes: Mapping[str, Collection[str] | AccessRule] = field(default_factory=dict)
    default_scopes: Sequence[str] = ()
    public_methods: Collection[str] = ()

    def with_public(self, paths: Iterable[str]) -> PolicyOptions:
        """Return these options with `paths` public, except those that have a rule here."""
        given = self.paths()
        return replace(self, public_methods=[*self.public_methods, *(p for p in paths if p not in given)])

    def has_rule_for(self, paths: Iterable[str]) -> bool:
        """Return whether one of `paths` has a rule here."""
        return not self.paths().isdisjoint(paths)

    def paths(self) -> set[str]:
        """Return the paths of the RPCs that have a rule here."""
        return {_path(name) for name in (*self.method_scopes, *self.public_methods)}


class Policy:
    """The access rule of every RPC by path, `/package.Service/Method`. No other RPC may be called.

    Args:
        rules: The rules.

    Raises:
        PolicyError: A rule is empty or contradicts itself.
    """

    def __init__(self, rules: Mapping[str, AccessRule]) -> None:
        for path, rule in rules.items():
            problem = _problem(rule)
            if problem:
                raise PolicyError(f"{path[1:]}: the access rule {problem}")
        self.rules = dict(sorted(rules.items()))

    @classmethod
    def of(
        cls,
        methods: Iterable[str],
        descriptors: Mapping[str, MethodDescriptor],
        options: PolicyOptions | None = None,
    ) -> Policy:
        """Build the policy of all registered RPCs.

        Args:
            methods: Paths of all registered RPCs.
            descriptors: Descriptors by path; RPCs whose proto is unknown have none.
            options: Rules that are not in the protos.

        Raises:
            PolicyError: An RPC has no rule, a rule is invalid, or a rule is for an unknown RPC.
        """
        options = options or PolicyOptions()
        paths = set(methods)
        given = _given_rules(options)
        for path in given:
            if path not in paths:
                raise PolicyError(
                    f"{path[1:]}: access rule for an unknown RPC; fix its name or remove the rule"
                )
        default = AccessRule(scopes=frozenset(options.default_scopes)) if options.default_scopes else None
        rules = {}
        for path in paths:
            rule = given.get(path) or _annotated(descriptors.get(path)) or default
            if rule is None:
                raise PolicyError(
                    f"{path[1:]}: has no access rule; set `option (gatehouse.authz.v1.access)` in its proto, "
                    "or add it to method_scopes or public_methods"
                )
            rules[path] = rule
        return cls(rules)

    def __getitem__(self, path: str) -> AccessRule:
        return self.rules[path]


def _problem(rule: AccessRule) -> str:
    """Return what is wrong with a rule and how to fix it, or "" if it is valid."""
    kinds = rule.public + rule.authenticated + bool(rule.scopes or rule.roles)
    conditions = bool(rule.acr or rule.max_age is not None or rule.online)
    problems = {
        "is empty; set public, authenticated, scopes or roles": kinds == 0,
        "mixes public, authenticated and scopes or roles; set only one of them": kinds > 1,
        "is public but sets acr, max_age or online; remove them": rule.public and conditions,
        "has an invalid scope; use printable ASCII without spaces, quotes and backslashes": not all(
            _PRINTABLE.fullmatch(scope) for scope in rule.scopes
        ),
        "has an empty role; remove it": not all(rule.roles),
        "has an invalid acr; use printable ASCII without spaces, quotes and backslashes": bool(
            rule.acr and not _PRINTABLE.fullmatch(rule.acr)
        ),
        "has a negative max_age; set 0 or more seconds": (rule.max_age or 0) < 0,
    }
    return next((problem for problem, found in problems.items() if found), "")


def _given_rules(options: PolicyOptions) -> dict[str, AccessRule]:
    """Return the rules of `method_scopes` and `public_methods` by path."""
    given: dict[str, AccessRule] = {}
    for name, rule in options.method_scopes.items():
        if isinstance(rule, str):
            raise PolicyError(f"{name}: method_scopes needs a list of scopes, not a string")
        given[_path(name)] = rule if isinstance(rule, AccessRule) else AccessRule(scopes=frozenset(rule))
    for name in options.public_methods:
        if _path(name) in given:
            raise PolicyError(f"{name}: is in method_scopes and in public_methods; remove one of them")
        given[_path(name)] = PUBLIC
    return given


def _annotated(descriptor: MethodDescriptor | None) -> AccessRule | None:
    """Return the rule in the proto of a method, or None."""
    if descriptor is None or not descriptor.GetOptions().HasExtension(authz_pb2.access):
        return None
    return AccessRule.from_proto(descriptor.GetOptions().Extensions[authz_pb2.access])


def _path(name: str) -> str:
    return "/" + name.lstrip("/")
