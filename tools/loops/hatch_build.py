"""Puts the libraries of loops into a wheel, with ``HATCH_BUILD_HOOK_ENABLE_CUSTOM=1`` set.

Without that the wheel is the same for all machines, and numba compiles at the first use.
"""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LoopsHook(BuildHookInterface):
    """Builds one library for each level of processors."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add them, and say which system they are for; an editable install gets none."""
        if version != "standard":
            return
        build = runpy.run_path(str(Path(self.root, "tools/loops/build.py")))
        for path in build["build_all"]():
            build_data["force_include"][str(path)] = f"psc_volumetric/{path.name}"
        system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"], build_data["pure_python"] = f"py3-none-{system}", False
