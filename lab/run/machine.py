"""What a run took place on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from lab.report.results import Machine


def this_machine() -> Machine:
    """This machine, as results name it."""
    return Machine(
        processors=os.cpu_count() or 1,
        system=_system(),
        kernel=platform.release(),
        python=platform.python_version(),
        punchlab=lab_version(),
    )


def lab_version() -> str:
    """The version of this lab."""
    try:
        return version("punchlab")
    except PackageNotFoundError:
        return "not installed"


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
