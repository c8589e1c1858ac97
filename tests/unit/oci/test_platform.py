"""Vectors: containerd/platforms platforms_test.go and compare_test.go."""

from __future__ import annotations

import pickle
import sys

import pytest

from imgpull.errors import InvalidPlatformError, PlatformNotFoundError
from imgpull.oci import Descriptor, Digest, Platform, media_types, platform_names
from imgpull.oci.strict_json import FrozenMap

HOST = Platform.host()
OS, ARCH = HOST.os, HOST.architecture
VARIANT = "" if (HOST.architecture, HOST.variant) == ("arm", "v7") else HOST.variant


def host_with(os: str, version: str = "", *features: str) -> Platform:
    return Platform(os, ARCH, VARIANT, version, features)


def on_host(os: str) -> str:
    return "/".join(part for part in (os, ARCH, VARIANT) if part)


ARM64_FORMS = [("linux", "aarch64"), ("linux", "aarch64", "v8"), ("linux", "arm64", "v8"), ("linux", "arm64")]

# TestParseSelector: specifier, what it is, what a matcher of it also matches, how it is written
PARSED: list[tuple[str, Platform, list[tuple[str, ...]], str]] = [
    ("linux/arm64", Platform("linux", "arm64"), ARM64_FORMS, "linux/arm64"),
    ("linux/arm64/v8", Platform("linux", "arm64", "v8"), ARM64_FORMS, "linux/arm64/v8"),
    (
        "linux/arm",
        Platform("linux", "arm"),
        [("linux", "arm", "v7"), ("linux", "armhf"), ("linux", "arm", "7")],
        "linux/arm",
    ),
    ("linux/arm/v6", Platform("linux", "arm", "v6"), [("linux", "armel")], "linux/arm/v6"),
    ("linux/arm/v7", Platform("linux", "arm", "v7"), [("linux", "arm"), ("linux", "armhf")], "linux/arm/v7"),
    ("arm", Platform(OS, "arm"), [], f"{OS}/arm"),
    ("armel", Platform(OS, "arm", "v6"), [], f"{OS}/arm/v6"),
    ("armhf", Platform(OS, "arm"), [], f"{OS}/arm"),
    ("Aarch64", Platform(OS, "arm64"), [], f"{OS}/arm64"),
    ("x86_64", Platform(OS, "amd64"), [], f"{OS}/amd64"),
    ("x86-64", Platform(OS, "amd64"), [], f"{OS}/amd64"),
    ("Linux/x86_64", Platform("linux", "amd64"), [], "linux/amd64"),
    ("i386", Platform(OS, "386"), [], f"{OS}/386"),
    ("linux", host_with("linux"), [], on_host("linux")),
    ("s390x", Platform(OS, "s390x"), [], f"{OS}/s390x"),
    ("linux/s390x", Platform("linux", "s390x"), [], "linux/s390x"),
    ("macOS", host_with("darwin"), [], on_host("darwin")),
    ("windows", host_with("windows"), [], on_host("windows")),
    ("windows()", host_with("windows"), [], on_host("windows")),
    ("windows(10.0.17763)", host_with("windows", "10.0.17763"), [], on_host("windows(10.0.17763)")),
    (
        "windows(10.0.17763+win32k)",
        host_with("windows", "10.0.17763", "win32k"),
        [],
        on_host("windows(10.0.17763+win32k)"),
    ),
    ("linux(+gpu)", host_with("linux", "", "gpu"), [], on_host("linux(+gpu)")),
    ("linux(+gpu+simd)", host_with("linux", "", "gpu", "simd"), [], on_host("linux(+gpu+simd)")),
    ("linux(+unsorted+erofs)", host_with("linux", "", "unsorted", "erofs"), [], on_host("linux(+erofs+unsorted)")),
    (
        "windows(10.0.17763%2Bbuild.42)",
        host_with("windows", "10.0.17763+build.42"),
        [],
        on_host("windows(10.0.17763%2Bbuild.42)"),
    ),
    (
        "windows(10.0.17763%2Bbuild.42+win32k)",
        host_with("windows", "10.0.17763+build.42", "win32k"),
        [],
        on_host("windows(10.0.17763%2Bbuild.42+win32k)"),
    ),
    ("windows(50%25done)", host_with("windows", "50%done"), [], on_host("windows(50%25done)")),
    ("foo/bar", Platform("foo", "bar"), [], "foo/bar"),
    ("linux/amd64/v1", Platform("linux", "amd64"), [("linux", "amd64")], "linux/amd64"),
]


@pytest.mark.parametrize(("specifier", "expected", "also", "written"), PARSED, ids=[case[0] for case in PARSED])
def test_parse_match_and_write(specifier: str, expected: Platform, also: list[tuple[str, ...]], written: str) -> None:
    read = Platform.parse(specifier)
    assert read == expected
    for candidate in (expected, *(Platform(form[0], form[1], "".join(form[2:])) for form in also)):
        rank = read.rank(candidate)
        assert rank is not None and rank[0] == 0, candidate
    assert str(read) == written
    assert str(Platform.parse(written)) == written
    assert pickle.loads(pickle.dumps(read)) == read


# TestFormatAllEncoding, and what registries could put into the fields
@pytest.mark.parametrize(
    ("platform", "written"),
    [
        (Platform("windows", "amd64", "", "10.0.17763+build.42"), "windows(10.0.17763%2Bbuild.42)/amd64"),
        (
            Platform("windows", "amd64", "", "10.0.17763+build.42", ("win32k",)),
            "windows(10.0.17763%2Bbuild.42+win32k)/amd64",
        ),
        (Platform("windows", "amd64", "", "50%done"), "windows(50%25done)/amd64"),
        (Platform("windows", "amd64", "", "1.0(beta)"), "windows(1.0%28beta%29)/amd64"),
        (Platform("windows", "amd64", "", "a/b"), "windows(a%2Fb)/amd64"),
        (Platform("windows", "amd64", "", "10.0.17763"), "windows(10.0.17763)/amd64"),
        (Platform("linux", "amd64", "", "", ("feat+v2",)), "linux(+feat%2Bv2)/amd64"),
        (Platform("linux", "amd64", "", "", ("100%gpu",)), "linux(+100%25gpu)/amd64"),
        (Platform("windows", "amd64", "", "10.0+build", ("feat+1",)), "windows(10.0%2Bbuild+feat%2B1)/amd64"),
        (Platform("linux", "amd64", "", "a b\n~é"), "linux(a%20b%0A%7E%C3%A9)/amd64"),
    ],
)
def test_options_are_written_so_that_they_can_be_read(platform: Platform, written: str) -> None:
    assert str(platform) == written
    assert Platform.parse(written) == platform


def test_empty_features_are_left_out_and_no_os_is_unknown() -> None:
    assert str(Platform("linux", "amd64", "", "", ("", "gpu", "", "simd"))) == "linux(+gpu+simd)/amd64"
    assert str(Platform("", "")) == "unknown"
    assert str(Platform("linux", "a\x1b[2J/../b")) == "linux/a%1B%5B2J%2F..%2Fb"


@pytest.mark.parametrize(
    "specifier",
    [
        "",
        "/linux/arm",
        "linux/arm/",
        "linux /arm",
        "linux/&arm",
        "linux/arm/foo/bar",
        "*",
        "linux/*",
        "*/arm64",
        "linux/arm64\n",
        "linux\n",
        "linux/\u0661",
        "sparta",
        "arm(1)",
        "linux(",
        "linux(a)b/amd64",
        "linux(50%done)/amd64",
        "linux(%ff)/amd64",
        "linux(%)/amd64",
        "linux/" + "a" * 10_000,
        "linux(" + "+" * 65_536 + ")/amd64!",
    ],
    ids=lambda specifier: ascii(specifier)[:30],
)
def test_an_invalid_specifier_is_refused_in_one_line(specifier: str) -> None:
    with pytest.raises(InvalidPlatformError, match="invalid platform") as caught:
        Platform.parse(specifier)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


ARM = ["linux/arm", "linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm/v8"]
NOT_ARM64 = ["linux/amd64", "linux/arm/v4", "windows/amd64", "windows/arm", "windows/arm64"]

# TestOnly: platform, images that run on it, images that don't
ONLY = [
    (
        "linux/amd64",
        ["linux/amd64", "linux/386"],
        ["linux/amd64/v2", "linux/arm/v7", "linux/arm64", "windows/amd64", "windows/arm"],
    ),
    (
        "linux/amd64/v2",
        ["linux/amd64", "linux/amd64/v1", "linux/amd64/v2", "linux/386"],
        ["linux/amd64/v3", "linux/amd64/v4", "linux/arm/v7", "linux/arm64", "windows/amd64", "windows/arm"],
    ),
    ("linux/386", ["linux/386"], ["linux/amd64", "linux/arm/v7", "linux/arm64", "windows/amd64", "windows/arm"]),
    (
        "windows/amd64",
        ["windows/amd64", "windows(10.0.17763)/amd64"],
        ["linux/amd64", "linux/arm/v7", "linux/arm64", "windows/arm"],
    ),
    ("linux/arm/v8", ARM, ["linux/amd64", "linux/arm/v4", "linux/arm64", "windows/amd64", "windows/arm"]),
    (
        "linux/arm/v7",
        ["linux/arm", "linux/arm/v5", "linux/arm/v6", "linux/arm/v7"],
        ["linux/amd64", "linux/arm/v4", "linux/arm/v8", "linux/arm64", "windows/amd64", "windows/arm"],
    ),
    (
        "linux/arm/v6",
        ["linux/arm/v5", "linux/arm/v6"],
        ["linux/amd64", "linux/arm", "linux/arm/v4", "linux/arm/v7", "linux/arm/v8", "linux/arm64", "windows/arm"],
    ),
    (
        "linux/arm/v5",
        ["linux/arm/v5"],
        ["linux/amd64", "linux/arm", "linux/arm/v4", "linux/arm/v6", "linux/arm/v7", "linux/arm/v8", "linux/arm64"],
    ),
    ("linux/arm/v4", ["linux/arm/v4"], ["linux/amd64", *ARM, "linux/arm64", "windows/arm"]),
    (
        "linux/arm64/v9",
        [*ARM, "linux/arm64", *(f"linux/arm64/v8.{minor}" for minor in range(6)), "linux/arm64/v9", "linux/arm64/v9.0"],
        [*NOT_ARM64, "linux/arm64/v7", "linux/arm64/v8.6", "linux/arm64/v9.1", "linux/arm64/v10"],
    ),
    (
        "linux/arm64/v8.1",
        [*ARM, "linux/arm64", "linux/arm64/v8", "linux/arm64/v8.1"],
        [*NOT_ARM64, "linux/arm/v9", "linux/arm64/v9", "linux/arm64/v8.2"],
    ),
    (
        "linux/arm64",
        [*ARM, "linux/arm64", "linux/arm64/v8"],
        [*NOT_ARM64, "linux/arm/v9", "linux/arm64/v7", "linux/arm64/v9"],
    ),
]


@pytest.mark.parametrize(("platform", "runs", "fails"), ONLY, ids=[case[0] for case in ONLY])
def test_which_images_run_where(platform: str, runs: list[str], fails: list[str]) -> None:
    wanted = Platform.parse(platform)
    assert [image for image in runs if not wanted.matches(Platform.parse(image))] == []
    assert [image for image in fails if wanted.matches(Platform.parse(image))] == []


@pytest.mark.parametrize(
    ("platform", "order"),
    [
        ("linux/amd64/v3", "amd64/v3 amd64/v2 amd64 386"),
        ("linux/amd64", "amd64 386"),
        ("linux/arm/v7", "arm/v7 arm/v6 arm/v5"),
        ("linux/arm64", "arm64 arm/v8 arm/v7 arm/v6 arm/v5"),
        ("linux/arm64/v8.2", "arm64/v8.2 arm64/v8.1 arm64 arm/v8 arm/v7 arm/v6 arm/v5"),
        (
            "linux/arm64/v9.1",
            "arm64/v9.1 arm64/v9 arm64/v8.6 arm64/v8.5 arm64/v8.4 arm64/v8.3 arm64/v8.2 arm64/v8.1 arm64 "
            "arm/v8 arm/v7 arm/v6 arm/v5",
        ),
        (
            "linux/arm64/v9.6",
            "arm64/v9.6 arm64/v9.5 arm64/v9.4 arm64/v9.3 arm64/v9.2 arm64/v9.1 arm64/v9 arm64/v8.9 arm64/v8.8 "
            "arm64/v8.7 arm64/v8.6 arm64/v8.5 arm64/v8.4 arm64/v8.3 arm64/v8.2 arm64/v8.1 arm64 "
            "arm/v8 arm/v7 arm/v6 arm/v5",
        ),
        ("linux/s390x", "s390x"),
    ],
)
def test_the_order_of_preference(platform: str, order: str) -> None:
    assert [str(accepted) for accepted in Platform.parse(platform).accepted()] == [
        f"linux/{name}" for name in order.split()
    ]


def test_an_absurd_level_is_not_counted_down_from() -> None:
    for architecture in ("amd64", "arm", "arm64"):
        for level in ("v100", "v999999", "v99999999999"):
            assert len(Platform("linux", architecture, level).accepted()) < 10


def image(platform: str | None, **annotations: str) -> Descriptor:
    content = f"{platform}{annotations}".encode()
    return Descriptor(
        media_types.OCI_MANIFEST,
        Digest.of_bytes(content),
        len(content),
        annotations=FrozenMap({name.replace("_", "."): value for name, value in annotations.items()}),
        platform=None if platform is None else Platform.parse(platform),
    )


def test_the_best_entry_is_chosen_wherever_it_stands() -> None:
    entries = [image(p) for p in (None, "linux/386", "windows/amd64", "linux/amd64", "linux/amd64/v2", "linux/arm64")]
    wanted = Platform.parse("linux/amd64/v2")
    assert [entries.index(entry) for entry in wanted.ranked(entries)] == [4, 3, 1, 0]
    assert wanted.select(entries) is entries[4]
    assert wanted.select(reversed(entries)) is entries[4]


def test_equals_keep_the_order_of_the_index() -> None:
    entries = [image("linux/amd64", n="1"), image("linux/amd64", n="2"), image(None, n="3"), image(None, n="4")]
    assert Platform.parse("linux/amd64").ranked(entries) == tuple(entries)
    assert Platform.parse("linux/s390x").ranked(entries) == tuple(entries[2:])


def test_an_attestation_is_never_chosen() -> None:
    unknown = Descriptor(media_types.OCI_MANIFEST, Digest.of_bytes(b"u"), 1, platform=Platform("unknown", "unknown"))
    noted = image(None, vnd_docker_reference_type="attestation-manifest")
    for wanted in (Platform.parse("linux/amd64"), Platform("unknown", "unknown")):
        with pytest.raises(PlatformNotFoundError) as caught:
            wanted.select([unknown, noted])
        assert caught.value.available == ()


def test_nothing_fits_lists_what_there_is() -> None:
    entries = [image("linux/arm64"), image("windows(10.0.17763)/amd64"), image("linux/arm64")]
    with pytest.raises(
        PlatformNotFoundError, match=r"no image for platform linux/riscv64; available: linux/arm64, w"
    ) as e:
        Platform.parse("linux/riscv64").select(entries)
    assert (e.value.platform, e.value.available) == ("linux/riscv64", ("linux/arm64", "windows(10.0.17763)/amd64"))
    with pytest.raises(PlatformNotFoundError, match="available: none"):
        Platform.parse("linux/riscv64").select([])


def test_features_must_be_there_and_more_of_them_are_better() -> None:
    plain, gpu, both, other = (
        image(p) for p in ("linux/amd64", "linux(+gpu)/amd64", "linux(+gpu+simd)/amd64", "linux(+erofs)/amd64")
    )
    entries = [plain, gpu, both, other]
    assert Platform.parse("linux(+simd+gpu)/amd64").ranked(entries) == (both, gpu, plain)
    assert Platform.parse("linux(+gpu)/amd64").ranked(entries) == (gpu, plain)
    assert Platform.parse("linux/amd64").ranked(entries) == (plain,)


@pytest.mark.parametrize(
    ("host", "runs", "fails"),
    [
        ("10.0.17763.1", ["10.0.17763", "10.0.17763.9", ""], ["10.0.17764", "10.0.20348", "10.1.17763", "x"]),
        ("10.0.20348", ["10.0.20348"], ["10.0.17763", "10.0.22621"]),
        ("10.0.26100", ["10.0.20348", "10.0.22621", "10.0.26100"], ["10.0.17763", "10.0.26101", "11.0.26100"]),
        ("", ["10.0.17763", "10.0.26100", "x"], []),
        ("10.0", ["10.0.17763"], []),
    ],
)
def test_windows_builds(host: str, runs: list[str], fails: list[str]) -> None:
    wanted = Platform("windows", "amd64", "", host)
    assert [version for version in runs if not wanted.matches(Platform("windows", "amd64", "", version))] == []
    assert [version for version in fails if wanted.matches(Platform("windows", "amd64", "", version))] == []


def test_os_version_counts_on_windows_only() -> None:
    assert Platform("linux", "amd64", "", "5.10").matches(Platform("linux", "amd64", "", "6.1"))


def test_two_spellings_are_one_platform() -> None:
    assert Platform("Linux", "aarch64", "8").normalised == Platform("linux", "arm64").normalised
    assert (
        Platform("linux", "armhf").normalised == Platform("linux", "arm").normalised == Platform("linux", "arm", "v7")
    )
    assert Platform("", "AMD64", "V1").normalised == Platform(OS, "amd64")
    assert Platform("linux", "arm64", "", "", ("b", "a", "b")).normalised.os_features == ("a", "b")


@pytest.mark.parametrize(
    ("machine", "maxsize", "expected"),
    [
        ("x86_64", 2**63 - 1, ("amd64", "")),
        ("AMD64", 2**63 - 1, ("amd64", "")),
        ("x86_64", 2**31 - 1, ("386", "")),
        ("i686", 2**31 - 1, ("386", "")),
        ("aarch64", 2**63 - 1, ("arm64", "")),
        ("arm64", 2**63 - 1, ("arm64", "")),
        ("aarch64", 2**31 - 1, ("arm", "v8")),
        ("armv7l", 2**31 - 1, ("arm", "v7")),
        ("armv6l", 2**31 - 1, ("arm", "v6")),
        ("armv5tel", 2**31 - 1, ("arm", "v5")),
        ("loongarch64", 2**63 - 1, ("loong64", "")),
        ("ppc64le", 2**63 - 1, ("ppc64le", "")),
    ],
)
def test_the_host(machine: str, maxsize: int, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(sys, "maxsize", maxsize)
    assert platform_names.host_architecture() == expected
