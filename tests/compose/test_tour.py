"""The tour in a container beside the services, against Keycloak."""

from __future__ import annotations

import re

from gatehouse.app.policy import policy_rows
from tests.support.compose import compose


def test_tour_in_its_container_passes_all_checks(stack: None) -> None:
    done = compose("run", "--rm", "--no-deps", "--no-TTY", "tour", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = 10 * len(policy_rows())
    assert f"{calls} of {calls} calls ended as their access rule requires" in done.stdout
    assert re.search(r"All \d+ checks passed", done.stdout)
    skipped = [line.strip() for line in done.stdout.splitlines() if "skipped" in line]
    assert skipped == ["skipped: this tour cannot stop the database; `gatehouse demo` can"]
