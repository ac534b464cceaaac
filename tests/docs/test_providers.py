"""docs/providers.md has a section for each preset, with settings that can be used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gatehouse.settings import PRESETS, IssuerSettings, ProviderName

PAGE = (Path(__file__).resolve().parents[2] / "docs/providers.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def test_each_preset_has_a_section() -> None:
    assert list(SECTIONS) == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_examples_can_be_used(name: ProviderName, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    examples = re.findall(r"```json\n(.*?)```", SECTIONS[name], re.DOTALL)

    assert examples
    for example in examples:
        for values in json.loads(example):
            if "client_secret_file" in values:
                values["client_secret_file"] = str(secret)
            assert IssuerSettings.model_validate(values).provider == name
    without_introspection = "introspection" not in PRESETS[name].modes and "hybrid" not in PRESETS[name].modes
    assert without_introspection == ("There is no introspection." in SECTIONS[name])
