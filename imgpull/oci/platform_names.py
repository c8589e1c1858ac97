"""Names of operating systems and processors, as containerd/platforms normalises them (``database.go``)."""

from __future__ import annotations

import platform
import sys

__all__ = [
    "KNOWN_ARCHITECTURES",
    "KNOWN_OS",
    "host_architecture",
    "host_os",
    "normal_architecture",
    "normal_os",
    "windows_builds_agree",
]

# fmt: off
KNOWN_OS = frozenset(
    {
        "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl",
        "netbsd", "openbsd", "plan9", "solaris", "windows", "zos"
    }
)
KNOWN_ARCHITECTURES = frozenset(
    {
        "386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "ppc64", "ppc64le", "loong64", "mips",
        "mipsle", "mips64", "mips64le", "mips64p32", "mips64p32le", "ppc", "riscv", "riscv64", "s390", "s390x",
        "sparc", "sparc64", "wasm"
    }
)
# fmt: on

_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}
_FIXED = {"i386": ("386", ""), "armhf": ("arm", "v7"), "armel": ("arm", "v6")}
_VARIANTS = {
    "amd64": {"v1": ""},
    "arm64": {"8": "", "v8": "", "v8.0": "", "9": "v9", "9.0": "v9", "v9.0": "v9"},
    "arm": {"": "v7", "7": "v7", "5": "v5", "6": "v6", "8": "v8"},
}
_MACHINES = {"i486": "386", "i586": "386", "i686": "386", "loongarch64": "loong64"}

_WINDOWS_SERVER_2022_BUILD = 20348
"""From here on a host runs images of every build back to this one (Microsoft's stable ABI promise)."""


def normal_os(name: str) -> str:
    """Lower case, ``macos`` as ``darwin``, and the host's for none."""
    name = name.lower()
    return {"macos": "darwin", "": host_os()}.get(name, name)


def normal_architecture(name: str, variant: str) -> tuple[str, str]:
    """Architecture and variant in the form in which they are compared (GOARCH; arm64 v8 and amd64 v1 left out)."""
    name, variant = name.lower(), variant.lower()
    if name in _FIXED:
        return _FIXED[name]
    name = _ALIASES.get(name, name)
    return name, _VARIANTS.get(name, {}).get(variant, variant)


def host_os() -> str:
    """GOOS of this machine."""
    return {"win32": "windows", "cygwin": "windows"}.get(sys.platform, sys.platform)


def host_architecture() -> tuple[str, str]:
    """GOARCH and variant of this process.

    containerd's newest release also gives an amd64 host its CPU level (v2, v3, v4). Rejected: the image that a plain
    pull gives would depend on the machine, and stores move between machines; who wants ``linux/amd64/v3`` says so.
    """
    machine = platform.machine().lower()
    if sys.maxsize < 2**32:  # a 32-bit process under a 64-bit kernel
        machine = {"x86_64": "i386", "aarch64": "armv8l"}.get(machine, machine)
    if machine.startswith("armv") and machine[4:5].isdigit():
        return "arm", f"v{machine[4]}"
    return normal_architecture(_MACHINES.get(machine, machine), "")


def windows_builds_agree(host: str, image: str) -> bool:
    """Whether an image of OS version ``image`` runs on ``host`` (``platform_windows_compat.go``); empty fits all."""
    wanted, offered = _windows_version(host), _windows_version(image)
    if not image or wanted == (0, 0, 0):
        return True
    if wanted[:2] != offered[:2]:
        return False
    if wanted[2] < _WINDOWS_SERVER_2022_BUILD:
        return wanted[2] == offered[2]
    return _WINDOWS_SERVER_2022_BUILD <= offered[2] <= wanted[2]


def _windows_version(version: str) -> tuple[int, int, int]:
    parts = version.split(".")
    numbers = [int(part) for part in parts[:3] if part.isascii() and part.isdigit() and len(part) <= len("65535")]
    if len(parts) < 3 or len(numbers) < 3 or numbers[0] > 0xFF or numbers[1] > 0xFF or numbers[2] > 0xFFFF:
        return (0, 0, 0)
    return numbers[0], numbers[1], numbers[2]
