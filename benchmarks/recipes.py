"""What the test images are made of: Debian 12 packages, layer by layer, shaped like the images of containerd's change.

The lists are fixed rather than resolved, so that everybody's image has the same layers; only package versions move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.layers import Compression

__all__ = ["RECIPES", "ImageRecipe", "LayerRecipe", "recipe_called"]


@dataclass(frozen=True, slots=True)
class LayerRecipe:
    """One layer: what a Dockerfile line would have left behind."""

    comment: str
    packages: tuple[str, ...] = ()
    unmerged: bool = False
    """Keep ``bin/…`` and ``lib/…`` as the package has them, so that entries go through a lower layer's symlinks."""
    without: tuple[str, ...] = ()
    """Packaged files left out, by the beginning of their (merged) names."""
    root: bool = False
    """The layer that lays the root down: ``bin → usr/bin`` and friends, users, os-release."""
    directories: tuple[tuple[str, int, int], ...] = ()
    """(name, mode, uid)"""
    files: tuple[tuple[str, str, int], ...] = ()
    """(name, text, mode)"""
    symlinks: tuple[tuple[str, str], ...] = ()
    capabilities: tuple[str, ...] = ()
    """Files that get ``security.capability`` (cap_net_raw), as ping's installer does."""
    whiteouts: tuple[str, ...] = ()
    opaques: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """An image: its name on disk, its ``repository:tag`` and its layers, lowest first."""

    name: str
    reference: str
    layers: tuple[LayerRecipe, ...]
    run: Mapping[str, Any] = field(default_factory=dict)
    compression: Compression = "gzip"


_BASE = (
    "adduser apt base-files base-passwd bash bsdutils coreutils dash debconf debian-archive-keyring debianutils"
    " diffutils dpkg e2fsprogs findutils gcc-12-base gpgv grep gzip hostname init-system-helpers libacl1"
    " libapt-pkg6.0 libattr1 libaudit-common libaudit1 libblkid1 libbz2-1.0 libc-bin libc6 libcap-ng0 libcap2"
    " libcom-err2 libcrypt1 libdb5.3 libdebconfclient0 libext2fs2 libffi8 libgcc-s1 libgcrypt20 libgmp10"
    " libgnutls30 libgpg-error0 libhogweed6 libidn2-0 liblz4-1 liblzma5 libmd0 libmount1 libnettle8 libp11-kit0"
    " libpam-modules libpam-modules-bin libpam-runtime libpam0g libpcre2-8-0 libseccomp2 libselinux1"
    " libsemanage-common libsemanage2 libsepol2 libsmartcols1 libss2 libstdc++6 libsystemd0 libtasn1-6 libtinfo6"
    " libudev1 libunistring2 libuuid1 libxxhash0 libzstd1 login logsave mawk mount ncurses-base ncurses-bin passwd"
    " perl-base sed sysvinit-utils tar tzdata usr-is-merged util-linux util-linux-extra zlib1g"
)
_PASSWD = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUP = "root:x:0:\ntty:x:5:\nshadow:x:42:\nnogroup:x:65534:\n"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _packages(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_SLIM = ("usr/share/man/", "usr/share/locale/")


def _root(packages: str, without: tuple[str, ...] = ()) -> LayerRecipe:
    return LayerRecipe(
        "debian 12",
        _packages(packages),
        root=True,
        without=without,
        directories=(("root", 0o700, 0), ("tmp", 0o1777, 0), ("proc", 0o555, 0), ("sys", 0o555, 0), ("dev", 0o755, 0)),
        files=(("etc/passwd", _PASSWD, 0o644), ("etc/group", _GROUP, 0o644), ("etc/shadow", "root:*:1::::::\n", 0o640)),
        symlinks=(("etc/alternatives/awk", "/usr/bin/mawk"), ("usr/bin/awk", "/etc/alternatives/awk")),
    )


_REDIS = ImageRecipe(
    name="redis",
    reference="redis:latest",
    layers=(
        _root(_BASE, _SLIM),
        LayerRecipe(
            "groupadd redis && useradd redis",
            files=(
                ("etc/passwd", _PASSWD + "redis:x:999:999::/data:/usr/sbin/nologin\n", 0o644),
                ("etc/group", _GROUP + "redis:x:999:\n", 0o644),
            ),
        ),
        LayerRecipe("install gosu", _packages("gosu iputils-ping"), unmerged=True, capabilities=("bin/ping",)),
        LayerRecipe(
            "install redis",
            _packages(
                "libssl3 openssl libjemalloc2 liblzf1 libatomic1 redis-tools redis-server ca-certificates locales"
            ),
            whiteouts=("usr/share/doc/adduser", "usr/sbin/e2scrub"),
            files=(("usr/share/doc/apt/README.image", "apt's own documents were replaced by this line.\n", 0o644),),
            opaques=("usr/share/doc/apt", "var/cache/apt"),
        ),
        LayerRecipe("mkdir /data && chown redis /data", directories=(("data", 0o755, 999),)),
        LayerRecipe(
            "COPY docker-entrypoint.sh",
            files=(("usr/local/bin/docker-entrypoint.sh", '#!/bin/sh\nset -e\nexec "$@"\n', 0o755),),
            symlinks=(("entrypoint.sh", "usr/local/bin/docker-entrypoint.sh"),),
        ),
    ),
    run={
        "Env": [_PATH, "REDIS_VERSION=7.0.15"],
        "Entrypoint": ["docker-entrypoint.sh"],
        "Cmd": ["redis-server"],
        "WorkingDir": "/data",
        "ExposedPorts": {"6379/tcp": {}},
        "Volumes": {"/data": {}},
    },
)  # fmt: skip

_GOLANG = ImageRecipe(
    name="golang",
    reference="golang:latest",
    layers=(
        _root(_BASE + " locales libssl3"),
        LayerRecipe(
            "install curl, gnupg and what fetching needs",
            _packages(
                "ca-certificates curl wget libcurl4 openssl netbase gnupg gpg gpg-agent dirmngr gpgconf gnupg-l10n"
                " gpgsm libassuan0 libksba8 libnpth0 libreadline8 readline-common libldap-2.5-0 libsasl2-2"
                " libssh2-1 libnghttp2-14 librtmp1 libpsl5 libbrotli1 libgssapi-krb5-2 libkrb5-3 libk5crypto3"
                " libkrb5support0 libkeyutils1 libsqlite3-0"
            ),
        ),
        LayerRecipe(
            "install git, mercurial, subversion",
            _packages(
                "git git-man liberror-perl mercurial mercurial-common subversion libsvn1 libapr1 libaprutil1"
                " libserf-1-1 libexpat1 openssh-client libedit2 procps libproc2-0 perl perl-modules-5.36 libperl5.36"
                " python3 python3-minimal python3.11 python3.11-minimal libpython3-stdlib libpython3.11-minimal"
                " libpython3.11-stdlib media-types libncursesw6 iputils-ping"
            ),
            unmerged=True,
            capabilities=("bin/ping",),
            opaques=("usr/share/doc/apt",),
        ),
        LayerRecipe(
            "install g++, gcc, libc6-dev, make, pkg-config",
            _packages(
                "binutils binutils-common binutils-x86-64-linux-gnu libbinutils libctf0 libctf-nobfd0 libgprofng0"
                " libjansson4 cpp cpp-12 gcc gcc-12 g++ g++-12 libstdc++-12-dev libgcc-12-dev libc6-dev libc-dev-bin"
                " linux-libc-dev libcrypt-dev libnsl-dev libtirpc-dev libtirpc3 libnsl2 rpcsvc-proto make patch"
                " pkg-config pkgconf pkgconf-bin libpkgconf3 libubsan1 liblsan0 libitm1 libcc1-0"
                " libgomp1 libquadmath0 libmpfr6 libmpc3 libisl23"
            ),
            without=("usr/lib/gcc/x86_64-linux-gnu/12/lto1", "usr/bin/x86_64-linux-gnu-lto-dump-12"),
            whiteouts=("usr/share/doc/curl", "usr/share/man/man1/wget.1.gz"),
        ),
        LayerRecipe(
            "install go",
            _packages("golang-1.19-src golang-1.19-go golang-src golang-go"),
            without=("usr/lib/go-1.19/pkg/linux_amd64/cmd/compile/",),
            symlinks=(("usr/local/go", "../lib/go-1.19"),),
        ),
        LayerRecipe("mkdir /go", directories=(("go", 0o1777, 0), ("go/src", 0o1777, 0), ("go/bin", 0o1777, 0))),
        LayerRecipe("WORKDIR /go", directories=(("go", 0o1777, 0),)),
    ),
    run={
        "Env": ["PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Cmd": ["bash"],
        "WorkingDir": "/go",
    },
)

_SMALL = (
    "base-files base-passwd dash grep sed gzip findutils hostname mawk tar diffutils debianutils bsdutils"
    " init-system-helpers libacl1 libattr1 libblkid1 libbz2-1.0 libcap2 libcrypt1 libdb5.3 libffi8 libgmp10 liblz4-1"
    " liblzma5 libpam0g libpcre2-8-0 libselinux1 libtinfo6 libzstd1 login mount ncurses-base passwd iputils-ping"
    " util-linux-extra debian-archive-keyring ca-certificates"
)
_MANY = ImageRecipe(
    name="manylayers",
    reference="manylayers:latest",
    layers=(
        *(
            _root(package) if place == 0 else LayerRecipe(f"install {package}", (package,), unmerged=place % 4 == 3)
            for place, package in enumerate(_packages(_SMALL))
        ),
        LayerRecipe("tidy", whiteouts=("usr/share/doc/grep", "usr/bin/egrep"), opaques=("usr/share/doc/sed",)),
        LayerRecipe("COPY hello", files=(("usr/local/bin/hello", "#!/bin/sh\necho hello\n", 0o755),)),
    ),
    run={"Env": [_PATH], "Cmd": ["bash"]},
)

RECIPES: Mapping[str, ImageRecipe] = {
    recipe.name: recipe
    for recipe in (
        _REDIS,
        _GOLANG,
        _MANY,
        replace(_GOLANG, name="golang-zstd", reference="golang:zstd", compression="zstd"),
    )
}


def recipe_called(name: str) -> ImageRecipe:
    """The recipe of that name (``zstd`` is short for ``golang-zstd``); KeyError names the choice."""
    full_name = "golang-zstd" if name == "zstd" else name
    if full_name not in RECIPES:
        raise KeyError(f"no image is called {name!r}; there are {', '.join([*RECIPES, 'zstd'])}")
    return RECIPES[full_name]
