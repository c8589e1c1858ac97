"""The same pull by other tools: each :class:`~benchmarks.peers.peer.Peer` found on PATH, and imgpull beside them.

A peer is a small class in :mod:`~benchmarks.peers.single` (programs that pull and end) or
:mod:`~benchmarks.peers.daemons` (a service of ours, and its client), and one line in :data:`PEERS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.peers.daemons import Containerd, Dockerd
from benchmarks.peers.peer import Peer
from benchmarks.peers.single import (
    Crane,
    CurlAndTar,
    Imgpull,
    ImgpullLibrary,
    ImgpullThreads,
    Oras,
    Podman,
    SkopeoAndUmoci,
)

__all__ = ["PEERS", "Peer"]

PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Imgpull("imgpull", "full"),
        Imgpull("imgpull-unsynced", "none"),
        ImgpullLibrary(),
        ImgpullThreads(),
        Containerd(),
        Dockerd(),
        Podman(),
        SkopeoAndUmoci(),
        CurlAndTar(),
        Crane(),
        Oras(),
    )
}
"""By name, in the order of the table. The first is what the others are compared with."""
