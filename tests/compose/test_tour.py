"""The tour of `make demo`, in a container beside the services, against the real Keycloak."""

from __future__ import annotations

from tests.support.compose import compose


def test_the_tour_in_its_container_finds_everything_as_promised(stack: None) -> None:
    done = compose("run", "--rm", "--no-deps", "--no-TTY", "tour", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # The same matrix as `make demo`: ten callers by fifteen RPCs.
    assert "150 calls, each answered as the policy promises" in done.stdout
    assert "came out as promised" in done.stdout
    left_out = [line for line in done.stdout.splitlines() if "left out" in line]
    assert [line.strip() for line in left_out] == [
        "left out: nobody here can stop the database; `gatehouse demo` shows it"
    ]
