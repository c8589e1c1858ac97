"""skopeo and umoci, as tests run them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

_SECONDS = 300


def run(*command: str) -> bytes:
    """Standard output; a failure shows what the program said."""
    done = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def push(layout: Path, name: str, target: str, *options: str) -> str:
    """Copies an image of a layout into a registry, ``HOST:PORT/REPOSITORY:TAG``; returns its digest there."""
    run("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *options,
        f"oci:{layout}:{name}", f"docker://{target}")  # fmt: skip
    command = ("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{target}")
    return run(*command).decode().strip()


def copied(layout: Path, name: str, target: Path) -> dict[str, Any]:
    """Copies an image of one layout into another and returns its manifest."""
    run("skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:{name}", f"oci:{target}:copied")
    index = json.loads((target / "index.json").read_bytes())
    digest = str(index["manifests"][0]["digest"])
    manifest: dict[str, Any] = json.loads((target / "blobs" / digest.replace(":", "/")).read_bytes())
    return manifest


def umoci_tree(layout: Path, name: str, bundle: Path) -> Path:
    """The root file system that umoci makes of an image; only root gets owners and devices."""
    run("umoci", "unpack", "--image", f"{layout}:{name}", str(bundle))
    return bundle / "rootfs"
