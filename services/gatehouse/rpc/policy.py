"""Who may call what: the rule of every RPC, read from the protos or from a mapping, complete or refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor

from gatehouse.authz.v1 import authz_pb2
from gatehouse.oauth import InsufficientScope, InsufficientUserAuthentication, Principal

# RFC 6749 section 3.3; nothing else can stand in a challenge between quotes.
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")


class PolicyError(Exception):
    """The policy is not complete or not consistent; the text names the RPC and the mend."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What an RPC demands; see protos/gatehouse/authz/v1/authz.proto.

    Attributes:
        public: Anyone may call.
        authenticated: Any valid token is enough.
        scopes: The token must carry all of them.
        roles: Where given, the principal must hold one of them.
        acr: Where given, the login must have this class (RFC 9470).
        max_age: Where given, the greatest age of the login in seconds (RFC 9470).
        online: The issuer is asked now.
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
        """Makes the rule of a method option."""
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
        """Makes the message of this rule."""
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

    @property
    def fault(self) -> str:
        """Why this rule says nothing or contradicts itself; "" when it is sound."""
        needs = bool(self.scopes or self.roles)
        said = self.public + self.authenticated + needs
        extras = bool(self.acr or self.max_age is not None or self.online)
        faults = {
            "is empty: say public, authenticated, scopes or roles": said == 0,
            "mixes public, authenticated and scopes or roles: say one of them": said > 1,
            "is public and asks for acr, max_age or online: say one of them": self.public and extras,
            "names a scope that RFC 6749 section 3.3 does not allow: mend it": not all(
                _SCOPE.fullmatch(scope) for scope in self.scopes
            ),
            "names an empty role: give it a name": not all(self.roles),
            "asks for an acr with spaces, quotes or other than ASCII characters: mend it": bool(
                self.acr and not _SCOPE.fullmatch(self.acr)
            ),
            "asks for a negative max_age: say seconds, 0 or more": (self.max_age or 0) < 0,
        }
        return next((fault for fault, found in faults.items() if found), "")

    def check(self, principal: Principal, now: float) -> None:
        """Refuses a principal that the rule does not admit.

        Args:
            principal: Who calls.
            now: Seconds since the epoch.

        Raises:
            InsufficientScope: A scope, or every role, is missing.
            InsufficientUserAuthentication: The login is too weak or too old (RFC 9470 section 3).
        """
        if not self.scopes <= principal.scopes:
            raise InsufficientScope("insufficient_scope", sorted(self.scopes))
        if self.roles and self.roles.isdisjoint(principal.roles):
            raise InsufficientScope("role_missing", sorted(self.scopes))
        if self.acr and principal.acr != self.acr:
            raise InsufficientUserAuthentication("acr_too_low", self.acr, self.max_age)
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
            parts.append("asked online")
        return " + ".join(parts)


PUBLIC = AccessRule(public=True)


class Policy:
    """The rule of every RPC, by path (`/package.Service/Method`); nothing else may be called.

    Args:
        rules: The rules.

    Raises:
        PolicyError: A rule is empty or contradicts itself.
    """

    def __init__(self, rules: Mapping[str, AccessRule]) -> None:
        for path, rule in rules.items():
            if rule.fault:
                raise PolicyError(f"{path.lstrip('/')}: the access rule {rule.fault}")
        self.rules = dict(sorted(rules.items()))

    @classmethod
    def of(
        cls,
        methods: Iterable[str],
        descriptors: Mapping[str, MethodDescriptor],
        *,
        method_scopes: Mapping[str, Collection[str] | AccessRule] | None = None,
        default_scopes: Sequence[str] = (),
        public_methods: Collection[str] = (),
    ) -> Policy:
        """Makes the policy of the registered `methods`.

        A rule given here goes before the one in the proto, which goes before `default_scopes`.

        Args:
            methods: Paths of all registered RPCs.
            descriptors: Descriptors, by path, of those whose proto is known.
            method_scopes: Scopes, or a whole rule, by `package.Service/Method`.
            default_scopes: Scopes of RPCs that have no rule anywhere.
            public_methods: RPCs that anyone may call.

        Raises:
            PolicyError: An RPC has no rule, a rule is empty, or a name is no registered RPC.
        """
        paths = set(methods)
        given: dict[str, AccessRule] = {}
        for name, wanted in (method_scopes or {}).items():
            given[_path(name)] = (
                wanted if isinstance(wanted, AccessRule) else AccessRule(scopes=_scopes(name, wanted))
            )
        for name in public_methods:
            if _path(name) in given:
                raise PolicyError(f"{name}: is in method_scopes and in public_methods; keep one of them")
            given[_path(name)] = PUBLIC
        for path in given:
            if path not in paths:
                raise PolicyError(
                    f"{path.lstrip('/')}: a rule names this RPC and no service here has it; "
                    "mend the name, or remove the rule"
                )
        fallback = AccessRule(scopes=frozenset(default_scopes)) if default_scopes else None
        rules = {}
        for path in paths:
            rule = given.get(path) or _annotated(descriptors.get(path)) or fallback
            if rule is None:
                raise PolicyError(
                    f"{path.lstrip('/')}: has no access rule; give it `option (gatehouse.authz.v1.access)` "
                    "in its proto, or an entry in method_scopes or public_methods"
                )
            rules[path] = rule
        return cls(rules)

    def __getitem__(self, path: str) -> AccessRule:
        return self.rules[path]


def _annotated(descriptor: MethodDescriptor | None) -> AccessRule | None:
    """Returns the rule in the proto of a method."""
    if descriptor is None or not descriptor.GetOptions().HasExtension(authz_pb2.access):
        return None
    return AccessRule.from_proto(descriptor.GetOptions().Extensions[authz_pb2.access])


def _path(name: str) -> str:
    return "/" + name.lstrip("/")


def _scopes(name: str, scopes: Collection[str]) -> frozenset[str]:
    if isinstance(scopes, str):
        raise PolicyError(f"{name}: method_scopes takes a list of scopes, not one string")
    return frozenset(scopes)
