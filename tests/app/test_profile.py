"""The profile of the command line: the file, its errors, and the settings of a server as a substitute."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gatehouse.app.profile import load_full_profile, local_profile
from gatehouse.app.services import SERVICES
from gatehouse.client.profile import Profile, load_profile
from gatehouse.settings import ConfigurationError, mask_settings
from tests.support.environment import SetEnvironment

CANARY = "canary"


def test_defaults_need_no_file(set_environment: SetEnvironment) -> None:
    assert load_profile() == Profile()


def test_profile_is_read_from_its_file(tmp_path: Path, set_environment: SetEnvironment) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps({"targets": {"users": "h:1"}, "passwords": {"alice": "canary"}}))
    set_environment(GATEHOUSE_PROFILE=str(file))
    profile = load_profile()

    assert profile.targets == {"users": "h:1"}
    assert profile.passwords["alice"].get_secret_value() == "canary"
    assert CANARY not in repr(profile) + json.dumps(mask_settings(profile))


@pytest.mark.parametrize(
    ("ca_file", "expected"), [("ca.crt", "{folder}/ca.crt"), ("/etc/ca.crt", "/etc/ca.crt")]
)
def test_ca_file_is_relative_to_the_profile(
    ca_file: str, expected: str, tmp_path: Path, set_environment: SetEnvironment
) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps({"ca_file": ca_file}))
    set_environment(GATEHOUSE_PROFILE=str(file))

    assert str(load_profile().ca_file) == expected.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("canary", "invalid JSON"),
        ('{"canary_entry": "canary"}', "unknown key"),
        ('{"plaintext": "canary"}', "plaintext: must be true or false"),
        ("[]", "must be a JSON object"),
    ],
)
def test_error_in_a_profile_is_one_line(
    content: str, reason: str, tmp_path: Path, set_environment: SetEnvironment
) -> None:
    file = tmp_path / "profile.json"
    file.write_text(content)
    set_environment(GATEHOUSE_PROFILE=str(file))
    with pytest.raises(ConfigurationError) as caught:
        load_profile()

    assert str(caught.value).startswith(f"{file}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_profile_in_the_documentation_is_valid(tmp_path: Path, set_environment: SetEnvironment) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/clients.md").read_text()
    (example,) = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "profile.json").write_text(example)
    set_environment(GATEHOUSE_PROFILE=str(tmp_path / "profile.json"))
    assert load_profile().ca_file == tmp_path / "ca.crt"
    assert load_profile().targets["users"] == "dns:///users.example.com:50051"


def test_missing_profile_is_an_error(tmp_path: Path, set_environment: SetEnvironment) -> None:
    set_environment(GATEHOUSE_PROFILE=str(tmp_path / "missing.json"))

    with pytest.raises(ConfigurationError, match=r"missing\.json: cannot read the profile \(No such file"):
        load_profile()


def test_service_without_a_target_is_on_its_default_port(
    tmp_path: Path, set_environment: SetEnvironment
) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps({"targets": {"users": "h:1"}}))
    set_environment(GATEHOUSE_PROFILE=str(file))

    defaults = {name: f"127.0.0.1:{spec.default_port}" for name, spec in SERVICES.items()}
    assert load_full_profile().targets == defaults | {"users": "h:1"}
    assert local_profile() == load_full_profile()
    file.write_text("{}")
    assert load_full_profile().targets == defaults


@pytest.mark.parametrize(
    ("host", "target"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]")]
    + [("[::1]", "[::1]"), ("10.0.0.1", "10.0.0.1")],
)
def test_without_a_profile_the_settings_of_a_server_are_used(
    host: str, target: str, set_environment: SetEnvironment
) -> None:
    set_environment(
        GATEHOUSE_SERVER__HOST=host,
        GATEHOUSE_USERS__PORT="7",
        GATEHOUSE_TLS__PLAINTEXT="true",
        GATEHOUSE_TLS__CA_FILE="/run/ca.crt",
    )
    profile = local_profile()

    assert profile.targets["users"] == f"{target}:7"
    assert profile.plaintext
    assert profile.ca_file == Path("/run/ca.crt")
