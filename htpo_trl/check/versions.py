"""Are the packages of the versions that this one asks for, and does torch see the GPUs that there are?"""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from .parts import Finding, Machine


_OWN = "htpo_trl"
# Those of an installation that works on this package, which a user has no need of.
_OF_DEVELOPERS = ("test", "docs", "notebooks", "dev")


def find(machine: Machine) -> Iterator[Finding]:
    """Python, each package that an option may need, and the devices."""
    yield _within("Python", metadata(_OWN)["Requires-Python"], platform.python_version())
    for requirement, extra in _requirements(_OWN):
        expected = str(requirement.specifier)
        if extra and not expected:
            continue
        try:
            yield _within(requirement.name, expected, version(requirement.name))
        except PackageNotFoundError:
            if not extra:
                yield Finding(requirement.name, expected or "any", "not installed", False)
    driver = _gpus_of_driver()
    if machine.asked != "cpu" and driver:
        yield _seen(driver)
    yield Finding("device", machine.asked or "any", machine.device, True)


def _within(name: str, expected: str, found: str) -> Finding:
    return Finding(name, expected or "any", found, SpecifierSet(expected).contains(found, prereleases=True))


def _requirements(package: str, extras: tuple[str, ...] = ()) -> Iterator[tuple[Requirement, bool]]:
    """What a package asks for, or only what some of its extras do; and whether that is for an extra."""
    for text in requires(package) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            if not extras:
                yield requirement, False
            continue
        asked = [marker.evaluate({"extra": extra}) for extra in extras or _OF_DEVELOPERS]
        wanted = any(asked) if extras else not any(asked)
        if wanted and requirement.extras:  # as trl[vllm]
            yield from ((each, True) for each, _ in _requirements(requirement.name, tuple(requirement.extras)))
        elif wanted:
            yield requirement, True


def _gpus_of_driver() -> list[str]:
    """Name, memory and driver of each GPU that the driver knows."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _seen(driver: list[str]) -> Finding:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    found = f"{'; '.join(names) or 'none'} ({built})"
    return Finding("GPUs", "; ".join(driver), found, bool(names), {"driver": driver, "torch": names})
