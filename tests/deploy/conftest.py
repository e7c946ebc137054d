"""Settings of the compose file."""

from __future__ import annotations

import pytest

from tests.deploy.compose_file import DEPLOY


@pytest.fixture
def settings() -> dict[str, str]:
    """What .env holds after `init-service`."""
    lines = (DEPLOY / "compose.env").read_text("utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {**given, "PSC_S3_SECRET": "test-secret", "PSC_DATABASE_PASSWORD": "test"}
