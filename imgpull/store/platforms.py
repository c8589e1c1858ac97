"""Platforms as JSON, in the field names of the image specification (image-index.md)."""

from __future__ import annotations

import json

from imgpull.oci import Platform

__all__ = ["platform_from_json", "platform_to_json"]


def platform_to_json(platform: Platform) -> dict[str, object]:
    fields: dict[str, object] = {"architecture": platform.architecture, "os": platform.os}
    if platform.os_version:
        fields["os.version"] = platform.os_version
    if platform.os_features:
        fields["os.features"] = list(platform.os_features)
    if platform.variant:
        fields["variant"] = platform.variant
    return fields


def platform_from_json(text: str) -> Platform:
    """Raises InvalidImageError."""
    return Platform.from_json(json.loads(text), "platform of an image record")
