"""A fork passes its own lint, tests and demo, and has nothing of the old name but the credit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.fork.forked import Fork
from tests.fork.page import PAGE, commands
from tests.support.repository_copy import Copy

# Tests of what depends on names, formats, protos, storage, commands and pages.
SAMPLE = ("tests/docs", "tests/project", "tests/settings/test_loading.py", "tests/users/test_service.py")
# Of the small fork: what had to be changed to live without the other services.
SMALL_SAMPLE = (
    "tests/app/test_doctor.py",
    "tests/cli/test_commands.py",
    "tests/docs",
    "tests/settings",
    "tests/system/test_matrix.py",
    "tests/testbed/test_tour.py",
    "tests/users",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """This repository, with its changes committed."""
    return Copy(tmp_path_factory.mktemp("original") / "copy")


def check(fork: Fork) -> None:
    """Look for the old name, lint, and run the demo."""
    (credit,) = fork.lines_with_the_old_name()
    assert credit.startswith("README.md: Made from ")
    assert fork.run("git", "log", "--format=%s").count("\n") == 1
    fork.run("make", "lint")
    demo = fork.run("make", "demo")
    assert re.search(r"All \d+ checks passed", demo), demo
    assert fork.run("git", "status", "--porcelain") == ""


def test_fork_with_everything_and_the_page_that_makes_it_your_own(
    copy: Copy, request: pytest.FixtureRequest
) -> None:
    renaming = commands(PAGE, "Rename it").splitlines()
    assert renaming == ["make fork NAME=acme-billing", "cd ../acme-billing"]
    progress = copy.make(*renaming[0].split()[1:]).splitlines()
    assert [line.split()[0] for line in progress] == ["copying", "renaming", "generating", "next:"]
    fork = Fork(copy.folder.parent / "acme-billing")
    check(fork)

    realm = (fork.folder / "keycloak/acme-billing-realm.json").read_text()
    assert '"realm": "acme-billing"' in realm
    compose = (fork.folder / "docker-compose.yml").read_text()
    assert "name: acme-billing\n" in compose
    assert "ACME_BILLING_USERS__DATABASE_URL: postgresql://acme_billing_users@" in compose
    if request.config.getoption("--full"):
        fork.run("make", "test", seconds=3600)
    else:
        fork.test(*SAMPLE)

    page = fork.folder / "docs/make-it-your-own.md"
    output = fork.run("bash", "-ec", commands(page, "Add an RPC..."))
    assert "TENANT.eu.auth0.com" in output
    policy = fork.run(".venv/bin/acme-billing", "policy")
    assert re.search(r"acme_billing.billing.v1.BillingService/CloseBill +unary +close:bills", policy)
    assert "PublicService" not in policy
    assert "AdminService" not in policy
    compose = (fork.folder / "docker-compose.yml").read_text()
    assert "keycloak:8443" not in compose
    assert not re.search(r"^ +(keycloak|seed):", compose, re.MULTILINE)
    assert '  ACME_BILLING_ISSUERS: \'[{"issuer": "https://TENANT' in compose
    shutil.rmtree(fork.folder)


def test_smallest_fork_has_one_service_that_verifies_jwts(
    copy: Copy, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (without,) = re.findall(r"^`(WITHOUT=.*introspection.*)`\.$", PAGE.read_text(), re.MULTILINE)
    copy.make("fork", "NAME=acme-users", f"DIR={tmp_path / 'acme-users'}", without)
    fork = Fork(tmp_path / "acme-users")
    check(fork)

    assert set(re.findall(r"acme_users\.\w+\.v1\.(\w+)/", fork.run(".venv/bin/acme-users", "policy"))) == {
        "UserService"
    }
    # No client of the services asks the issuer, so none has a secret.
    assert "client_secret" not in (fork.folder / "docker-compose.yml").read_text()
    if request.config.getoption("--full"):
        fork.run("make", "test", seconds=3600)
    else:
        fork.test(*SMALL_SAMPLE)
    shutil.rmtree(fork.folder)
