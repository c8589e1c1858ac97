"""``imgpull resolve`` asks a registry and needs no store."""

from __future__ import annotations

from fakes import images
from fakes.registry import FakeRegistry

from .conftest import Run, World


def test_resolve_prints_the_pinned_reference(world: World, run: Run) -> None:
    with FakeRegistry() as registry:
        image = images.build([{"a": b"1"}])
        reference = registry.add(image, "acme/api", "v3")
        assert run("resolve", reference).out == f"{reference}@{image.digest}\n"
        assert run("--json", "resolve", reference).document == [
            {
                "reference": reference,
                "digest": image.digest,
                "media_type": image.media_type,
                "size_bytes": len(image.raw),
            }
        ]
        assert {request.method for request in registry.requests} == {"HEAD"}
    assert world.store_arguments == []


def test_resolve_of_several_gives_the_highest_code(run: Run) -> None:
    with FakeRegistry() as registry:
        good = registry.add(images.build([{"a": b"1"}]), "acme/api", "v3")
        ran = run("resolve", f"{registry.address}/acme/api:v4", good)
        assert ran.code == 3
        assert ran.out.startswith(f"{good}@sha256:")
        assert ran.error.startswith(f"{registry.address}: manifest acme/api:v4 not found")  # not said twice


def test_malformed_reference_asks_nobody(run: Run) -> None:
    ran = run("resolve", "No/Good")
    assert ran.code == 2
    assert "No/Good" in ran.error
