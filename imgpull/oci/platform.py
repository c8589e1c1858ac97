"""Platform: operating system and processor an image is for; its text form; and the order of preference.

Text form and order are containerd/platforms' (``Parse``, ``FormatAll``, ``Only``): users know them from docker,
nerdctl and the kubelet, and the same index must give the same image here as there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from imgpull.errors import InvalidPlatformError, PlatformNotFoundError
from imgpull.oci import platform_names as names
from imgpull.oci.strict_json import shown, text, texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgpull.oci.descriptor import Descriptor

__all__ = ["Platform"]

_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+")
_OS = re.compile(r"(?P<os>[A-Za-z0-9_-]+)(?:\((?P<version>[A-Za-z0-9_.%-]*)(?P<features>(?:\+[A-Za-z0-9_.%-]+)*)\))?")
_LEVEL = re.compile(r"v?([0-9]{1,2})")
_MINOR = re.compile(r"[0-9]")
_LONGEST = 1024
_ARM64_V8_MINOR_MAX = 9
"""Armv8 ends at v8.9; v9.x holds all of v8.(x+5) up to there."""
_UNKNOWN = "unknown"
"""Buildkit marks attestation manifests with this os and architecture."""
_ATTESTATION = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class Platform:
    """``linux/arm64``, ``linux/arm/v6``, ``windows(10.0.20348)/amd64`` …; GOOS and GOARCH words."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, specifier: str) -> Platform:
        """Reads ``<os>|<arch>|<os>/<arch>[/<variant>]``; what is left out is this host's.

        ``<os>`` may carry ``(<version>+<feature>…)``. Raises InvalidPlatformError.
        """
        parts = specifier.split("/") if len(specifier) <= _LONGEST else []
        match = _OS.fullmatch(parts[0]) if parts else None
        if match is None or len(parts) > 3 or not all(_COMPONENT.fullmatch(part) for part in parts[1:]):
            raise _invalid(specifier, "use OS/ARCHITECTURE[/VARIANT], such as linux/amd64 or linux/arm/v7")
        system = cls(
            os=names.normal_os(match["os"]),
            architecture="",
            os_version=_decoded(match["version"] or "", specifier),
            os_features=tuple(_decoded(feature, specifier) for feature in (match["features"] or "").split("+")[1:]),
        )
        return _one_word(system, specifier) if len(parts) == 1 else _with_processor(system, *parts[1:])

    @classmethod
    def host(cls) -> Platform:
        """The platform this process runs on."""
        return cls(names.host_os(), *names.host_architecture())

    @classmethod
    def from_json(cls, obj: Mapping[str, object], what: str) -> Platform:
        """The platform of an index entry or an image config (same field names). Raises InvalidImageError.

        The specification requires os and architecture; like containerd we read an absent one as empty.
        """
        return cls(
            os=text(obj, "os", what, default=""),
            architecture=text(obj, "architecture", what, default=""),
            variant=text(obj, "variant", what, default=""),
            os_version=text(obj, "os.version", what, default=""),
            os_features=texts(obj, "os.features", what),
        )

    @property
    def normalised(self) -> Platform:
        """The form in which platforms are compared: two spellings of one platform give equal values."""
        architecture, variant = names.normal_architecture(self.architecture, self.variant)
        features = tuple(sorted({feature for feature in self.os_features if feature}))
        return replace(
            self, os=names.normal_os(self.os), architecture=architecture, variant=variant, os_features=features
        )

    def __str__(self) -> str:
        """The specifier that :meth:`parse` reads; whatever a registry put into a field, it is printable ASCII."""
        if not self.os:
            return _UNKNOWN
        options = _encoded(self.os_version)
        options += "".join(f"+{_encoded(feature)}" for feature in sorted(self.os_features) if feature)
        system = _encoded(self.os) + (f"({options})" if options else "")
        return "/".join([system, *(_encoded(part) for part in (self.architecture, self.variant) if part)])

    def accepted(self) -> tuple[Platform, ...]:
        """Every platform whose images run here, best first (containerd's ``platformVector``), normalised."""
        wanted = self.normalised
        return tuple(
            replace(wanted, architecture=architecture, variant=variant).normalised
            for architecture, variant in _runs(wanted.architecture, wanted.variant)
        )

    def rank(self, candidate: Platform) -> tuple[int, int] | None:
        """Sort key of an image's platform on this one, smaller is better; None where its images don't run here."""
        return _rank(self.accepted(), candidate)

    def matches(self, candidate: Platform) -> bool:
        """Whether an image for ``candidate`` runs here: for a config whose index entry named no platform."""
        return self.rank(candidate) is not None

    def ranked(self, descriptors: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
        """The entries that may be chosen, best first, equals in index order; those without a platform come last.

        Attestations are left out. An entry without a platform still has to be checked against its config.
        """
        accepted = self.accepted()
        ranks: list[tuple[tuple[int, int], Descriptor]] = []
        unnamed: list[Descriptor] = []
        for descriptor in descriptors:
            if _ATTESTATION in descriptor.annotations or _is_unknown(descriptor.platform):
                continue
            if descriptor.platform is None:
                unnamed.append(descriptor)
            elif (rank := _rank(accepted, descriptor.platform)) is not None:
                ranks.append((rank, descriptor))
        ranks.sort(key=lambda pair: pair[0])
        return (*(descriptor for _, descriptor in ranks), *unnamed)

    def select(self, descriptors: Iterable[Descriptor]) -> Descriptor:
        """The entry to pull. Raises PlatformNotFoundError, which lists what there is."""
        entries = tuple(descriptors)
        ranked = self.ranked(entries)
        if ranked:
            return ranked[0]
        raise self.not_found(entry.platform for entry in entries)

    def not_found(self, platforms: Iterable[Platform | None]) -> PlatformNotFoundError:
        """The error to raise when none of ``platforms`` will do."""
        offered = (platform for platform in platforms if platform is not None and not _is_unknown(platform))
        available = tuple(dict.fromkeys(str(platform) for platform in offered))
        listed = ", ".join(available[:20]) + (", …" if len(available) > 20 else "")
        return PlatformNotFoundError(
            f"no image for platform {self}; available: {listed or 'none'}", platform=str(self), available=available
        )


def _invalid(specifier: str, reason: str) -> InvalidPlatformError:
    return InvalidPlatformError(f"invalid platform {shown(specifier)}: {reason}")


def _decoded(option: str, specifier: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", option):
        raise _invalid(specifier, "a percent sign is written %25")
    try:
        return unquote(option, errors="strict")
    except UnicodeDecodeError:
        raise _invalid(specifier, "percent escapes must be UTF-8") from None


def _encoded(part: str) -> str:
    # containerd escapes only % + ( ) and /; more is escaped here so that the result can always be read again.
    return quote(part, safe="", errors="replace").replace("~", "%7E")


def _one_word(system: Platform, specifier: str) -> Platform:
    if system.os in names.KNOWN_OS:
        architecture, variant = names.host_architecture()
        return replace(system, architecture=architecture, variant=_unless_default(architecture, variant))
    architecture, variant = names.normal_architecture(specifier, "")
    if architecture not in names.KNOWN_ARCHITECTURES:
        raise _invalid(specifier, "neither an operating system nor a processor by that name is known")
    return _with_processor(replace(system, os=names.host_os()), specifier)


def _with_processor(system: Platform, architecture: str, variant: str | None = None) -> Platform:
    normal, level = names.normal_architecture(architecture, variant or "")
    if variant is None:
        level = _unless_default(normal, level)
    elif normal == "arm64" and not level:
        level = "v8"  # it was said, so it stays visible
    return replace(system, architecture=normal, variant=level)


def _unless_default(architecture: str, variant: str) -> str:
    return "" if (architecture, variant) == ("arm", "v7") else variant


def _is_unknown(platform: Platform | None) -> bool:
    return platform is not None and platform.os == _UNKNOWN and platform.architecture == _UNKNOWN


def _rank(accepted: tuple[Platform, ...], candidate: Platform) -> tuple[int, int] | None:
    offered = candidate.normalised
    for position, wanted in enumerate(accepted):
        if _fits(wanted, offered):
            return position, -len(offered.os_features)
    return None


def _fits(wanted: Platform, offered: Platform) -> bool:
    if (wanted.os, wanted.architecture, wanted.variant) != (offered.os, offered.architecture, offered.variant):
        return False
    if wanted.os == "windows" and not names.windows_builds_agree(wanted.os_version, offered.os_version):
        return False
    return set(offered.os_features) <= set(wanted.os_features)


def _runs(architecture: str, variant: str) -> Iterator[tuple[str, str]]:
    """Processors whose programs run on this one, itself first."""
    yield architecture, variant
    if architecture == "amd64":
        yield from ((architecture, f"v{level}") for level in range(_level(variant) - 1, 0, -1))
        yield "386", ""
    elif architecture == "arm":
        yield from ((architecture, f"v{level}") for level in range(_level(variant) - 1, 4, -1))
    elif architecture == "arm64":
        yield from (("arm64", lower) for lower in _arm64_below(variant or "v8"))
        yield from _runs("arm", "v8" if variant.startswith(("v8.", "v9.")) else variant or "v8")


def _arm64_below(variant: str) -> Iterator[str]:
    major_text, _, minor_text = variant.partition(".")
    major = _level(major_text)
    minor = int(minor_text) if _MINOR.fullmatch(minor_text) else 0
    if major < 8:
        return
    if major == 9:
        yield from (_arm64_name(major, lower) for lower in range(minor - 1, -1, -1))
        major, minor = 8, min(minor + 5, _ARM64_V8_MINOR_MAX)
        yield _arm64_name(major, minor)
    yield from (_arm64_name(major, lower) for lower in range(minor - 1, -1, -1))


def _arm64_name(major: int, minor: int) -> str:
    return f"v{major}.{minor}" if minor else f"v{major}"


def _level(variant: str) -> int:
    """The number of ``v3`` or ``3``; 0 for anything else, three digits included: the range below it is walked."""
    match = _LEVEL.fullmatch(variant)
    return int(match[1]) if match else 0
