"""The compose file as its readers see it, for the tests of deploy/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
VARIABLE = re.compile(r"\$\{(\w+)(?::?([-?])([^}]*))?\}")


def interpolated(text: str, environment: dict[str, str]) -> str:
    """Text with ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?error}`` put in."""

    def value(found: re.Match[str]) -> str:
        name, sign, rest = found.groups()
        if environment.get(name):
            return environment[name]
        assert sign == "-", f"{name} has neither a value nor a default"
        return str(rest)

    return VARIABLE.sub(value, text)


def compose(environment: dict[str, str], *names: str) -> dict[str, Any]:
    """Services of a compose file: name -> settings."""
    text = (DEPLOY / (names[0] if names else "compose.yaml")).read_text("utf-8")
    found: dict[str, Any] = yaml.safe_load(interpolated(text, environment))["services"]
    return found
