"""The development issuer: same realm file and same answers as Keycloak. Not for production."""

from gatehouse_testbed.issuer.app import create_app
from gatehouse_testbed.issuer.realm import Realm, RealmError, load_realm, realm_variables
from gatehouse_testbed.issuer.run import RunningIssuer, run_issuer

__all__ = [
    "Realm",
    "RealmError",
    "RunningIssuer",
    "create_app",
    "load_realm",
    "realm_variables",
    "run_issuer",
]
