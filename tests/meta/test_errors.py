"""The error tree is the one that is promised: bases, exit codes, pickles, copies, names."""

from __future__ import annotations

import copy
import pickle

import pytest

import imgpull
from imgpull import errors

TREE: dict[str, tuple[str, type[BaseException] | None, int]] = {
    "InvalidReferenceError": ("ImgpullError", ValueError, 2),
    "InvalidPlatformError": ("ImgpullError", ValueError, 2),
    "RegistryError": ("ImgpullError", None, 1),
    "RegistryUnavailableError": ("RegistryError", ConnectionError, 1),
    "RateLimitedError": ("RegistryError", None, 1),
    "NotFoundError": ("RegistryError", LookupError, 3),
    "UnauthorizedError": ("RegistryError", PermissionError, 4),
    "InsecureTransportError": ("RegistryError", None, 4),
    "ImageError": ("ImgpullError", None, 1),
    "UnsupportedMediaTypeError": ("ImageError", None, 1),
    "InvalidImageError": ("ImageError", ValueError, 1),
    "PlatformNotFoundError": ("ImageError", LookupError, 3),
    "PolicyRejectedError": ("ImageError", None, 4),
    "VerificationError": ("ImgpullError", None, 5),
    "DigestMismatchError": ("VerificationError", None, 5),
    "SizeMismatchError": ("VerificationError", None, 5),
    "DiffIDMismatchError": ("VerificationError", None, 5),
    "StoreError": ("ImgpullError", OSError, 1),
    "RefLockedError": ("StoreError", None, 1),
    "AlreadyExistsError": ("StoreError", None, 1),
    "SnapshotInUseError": ("StoreError", None, 1),
    "StoreFullError": ("StoreError", None, 1),
    "ContentNotFoundError": ("StoreError", LookupError, 3),
    "SnapshotNotFoundError": ("StoreError", LookupError, 3),
    "ImageNotFoundError": ("StoreError", LookupError, 3),
    "StoreCorruptError": ("StoreError", None, 5),
    "UnpackError": ("ImgpullError", None, 1),
    "UnsafeEntryError": ("UnpackError", None, 1),
    "InvalidArchiveError": ("UnpackError", None, 1),
    "LimitExceededError": ("UnpackError", None, 1),
    "PullTimeoutError": ("ImgpullError", TimeoutError, 6),
    "LockTimeoutError": ("ImgpullError", TimeoutError, 6),
    "OfflineError": ("ImgpullError", None, 7),
    "PullCancelledError": ("ImgpullError", None, 130),
}
FACTS: dict[str, dict[str, object]] = {
    "RateLimitedError": {"registry": "r", "status": 429, "retry_after_seconds": 3.0},
    "LimitExceededError": {"limit": "layers", "layer": "l", "entry": "e"},
    "DigestMismatchError": {"expected": "a", "actual": "b"},
    "RefLockedError": {"ref": "r", "path": "p"},
    "PlatformNotFoundError": {"platform": "p", "available": ("a",), "digest": "d"},
}


def test_no_error_is_missing_or_too_many() -> None:
    assert set(errors.__all__) == {*TREE, "ImgpullError"}


@pytest.mark.parametrize("name", TREE)
def test_tree(name: str) -> None:
    parent, standard, exit_code = TREE[name]
    error = getattr(imgpull, name)
    assert error.__bases__[0] is getattr(errors, parent)
    assert standard is None or standard in error.__bases__
    assert error.exit_code == exit_code
    assert name in (errors.__doc__ or "")
    assert error.__doc__


@pytest.mark.parametrize("name", TREE)
def test_pickles_and_copies_with_its_facts(name: str) -> None:
    facts = FACTS.get(name, {})
    error = getattr(imgpull, name)("what is wrong", **facts)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), error.copy()):
        assert type(twin) is type(error)
        assert twin is not error
        assert str(twin) == "what is wrong"
        assert {key: getattr(twin, key) for key in facts} == facts
        assert twin.__dict__ == error.__dict__


def test_public_names() -> None:
    assert len(set(imgpull.__all__) - set(errors.__all__)) <= 25
    assert all(hasattr(imgpull, name) for name in imgpull.__all__)
    assert set(imgpull.__all__) <= set(dir(imgpull))
