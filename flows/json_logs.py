"""Logs of processes that flows start (runs, workers, the server), one JSON object a line.

Both libraries configure logging when they are imported, from the environment.
"""

from __future__ import annotations

from pathlib import Path

from psc_volumetric.shipped import shipped_bytes

__all__ = ["for_children"]

CONFIGURATION = Path(__file__).with_name("logging.yml")
FORMATTER = "pipelines.log_lines.NamelessJsonLines"


def for_children() -> dict[str, str]:
    """Environment variables that make Prefect and Dask log lines without names on stderr.

    Raises
    ------
    InstallationError : the file that they name is missing.
    """
    shipped_bytes(CONFIGURATION)
    dask = {
        "VERSION": "1",
        "DISABLE_EXISTING_LOGGERS": "False",
        "FORMATTERS__LINES__CLASS": FORMATTER,
        "HANDLERS__STDERR__CLASS": "logging.StreamHandler",
        "HANDLERS__STDERR__FORMATTER": "lines",
        "LOGGERS__DISTRIBUTED__LEVEL": "WARNING",
        "LOGGERS__DISTRIBUTED__HANDLERS": "['stderr']",
        "LOGGERS__DISTRIBUTED__PROPAGATE": "False",
    }
    return {
        "PREFECT_LOGGING_CONFIG_PATH": str(CONFIGURATION),
        **{f"DASK_LOGGING__{name}": value for name, value in dask.items()},
    }
