"""Credentials: who the user is to a registry. By default whatever ``docker login`` left behind."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from imgpull.errors import UnauthorizedError
from imgpull.oci.strict_json import shown

if TYPE_CHECKING:
    from imgpull.registry.helper import HelperPrograms

__all__ = ["Anonymous", "Credential", "Credentials", "DockerConfig", "HUB_SERVER", "server_names"]

_logger = logging.getLogger("imgpull.registry")

HUB_SERVER = "https://index.docker.io/v1/"
"""The name docker files Docker Hub's credentials under."""
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_MAX_CONFIG_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Credential:
    """What a registry may be shown. Nothing of it appears in ``repr``, so that no log line can carry it."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token: exchanged for bearer tokens, stands in for user name and password."""
    registry_token: str = field(default="", repr=False)
    """A bearer token to use as it is."""
    problem: str = ""
    """Why there is nothing above although there should be (a helper that failed); told if the registry then says no."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.username or self.password or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        """The Authorization value for Basic (RFC 7617, in UTF-8)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


class Credentials(Protocol):
    """Where credentials come from. ``connect(credentials=…)`` takes any implementation."""

    def credential_for(self, registry: str) -> Credential | None:
        """The credential for exactly this registry (``docker.io``, ``ghcr.io``, ``localhost:5000``), or None.

        Called from any thread, and only once the registry has asked for authentication. May raise
        UnauthorizedError when the credentials' source is broken.
        """


class Anonymous:
    """No credentials, whatever docker's configuration says."""

    def credential_for(self, registry: str) -> Credential | None:
        """None."""
        return None


class DockerConfig:
    """``config.json`` of docker: ``$DOCKER_CONFIG/config.json``, by default ``~/.docker/config.json``.

    In docker's order: the registry's own helper (``credHelpers``), else the general one (``credsStore``), else what
    stands in ``auths``. A helper that fails counts as having nothing, as docker has it: many a configuration names a
    helper of a desktop that isn't here, and public images need none. The file is read again each time, so a login
    is seen at once.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, programs: HelperPrograms | None = None) -> None:
        self._path = Path(path) if path is not None else None
        self._lock = threading.Lock()  # guards _programs
        self._programs = programs

    @property
    def path(self) -> Path:
        """The file that is read."""
        if self._path is not None:
            return self._path
        return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"

    @property
    def version(self) -> tuple[str, int, int, int]:
        """Which file it is and in which state: equal where nobody has logged in or out between two looks."""
        try:
            path = self.path
            stat = path.stat()
        except (OSError, RuntimeError):  # no file, no home, or none that can be read: told of when it is needed
            return "", 0, 0, 0
        return str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size

    def credential_for(self, registry: str) -> Credential | None:
        """See :class:`Credentials`. Raises UnauthorizedError when the file is there and can't be used."""
        config = self._load()
        names = server_names(registry)
        helper = self._helper(config, names)
        if helper is not None:
            return self._ask(helper, names[0])
        return _from_auths(_section(config, "auths"), names, self.path)

    def _ask(self, helper: str, server: str) -> Credential | None:
        with self._lock:
            if self._programs is None:
                from imgpull.registry.helper import HelperPrograms  # subprocess: 10 ms few users need

                self._programs = HelperPrograms()
            programs = self._programs
        return programs.get(helper, server)

    def _helper(self, config: Mapping[str, object], names: tuple[str, ...]) -> str | None:
        own = _section(config, "credHelpers")
        for name in names:
            helper = own.get(name)
            if isinstance(helper, str) and helper:
                return helper
        store = config.get("credsStore")
        return store if isinstance(store, str) and store else None

    def _load(self) -> Mapping[str, object]:
        path = self.path
        try:
            with path.open("rb") as file:
                raw = file.read(_MAX_CONFIG_BYTES + 1)
            config = json.loads(raw) if raw.strip() and len(raw) <= _MAX_CONFIG_BYTES else {}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise UnauthorizedError(f"{path}: can't be read ({error.strerror}); check its permissions") from None
        except (ValueError, RecursionError):
            # "from None": the decoder's exception carries the whole document, passwords and all.
            raise UnauthorizedError(f"{path}: is not valid JSON; repair it, or log in anew") from None
        if not isinstance(config, dict):
            raise UnauthorizedError(f"{path}: is not a JSON object; repair it, or log in anew")
        return config


def server_names(registry: str) -> tuple[str, ...]:
    """The names a registry's credentials may be filed under, the usual one first. Matched exactly: what ends like
    another registry's name is another registry."""
    if registry in _HUB_NAMES:
        return (HUB_SERVER, "index.docker.io", "docker.io", "registry-1.docker.io", "https://index.docker.io/v1")
    return (registry, f"https://{registry}", f"http://{registry}")


def _from_auths(auths: Mapping[str, object], names: tuple[str, ...], path: Path) -> Credential | None:
    stems = {_stem(name) for name in names}
    # Exact names first; then such as "https://ghcr.io/v2/", by which old clients filed the same host.
    candidates = [auths[name] for name in names if name in auths]
    candidates += [entry for name, entry in auths.items() if name not in names and _stem(name) in stems]
    for entry in candidates:
        if isinstance(entry, dict):
            credential = _from_entry(entry, path)
            if credential is not None and not credential.empty:
                return credential
    return None


def _stem(name: str) -> str:
    """``name`` without scheme and API path. Other paths stay: they are namespaces, narrower than their host."""
    stem = name.removeprefix("https://").removeprefix("http://").rstrip("/")
    return stem.removesuffix("/v1").removesuffix("/v2")


def _from_entry(entry: Mapping[str, object], path: Path) -> Credential | None:
    username, password = _text(entry, "username"), _text(entry, "password")
    encoded = _text(entry, "auth")
    if encoded:
        try:
            decoded = base64.b64decode(encoded, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            raise UnauthorizedError(f"{path}: an entry of auths is not base64; log in anew") from None
        username, colon, password = decoded.partition(":")
        if not colon:
            raise UnauthorizedError(f"{path}: an entry of auths is not user:password; log in anew")
        password = password.rstrip("\0")  # as docker: some clients padded it
    identity_token, registry_token = _text(entry, "identitytoken"), _text(entry, "registrytoken")
    return Credential(username, password, identity_token, registry_token)


def _section(config: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = config.get(name)
    if section is not None and not isinstance(section, dict):
        _logger.info("docker's config.json: %s is no object, ignored", shown(name))
    return section if isinstance(section, dict) else {}


def _text(entry: Mapping[str, object], name: str) -> str:
    value = entry.get(name)
    return value if isinstance(value, str) else ""
