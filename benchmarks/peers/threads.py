"""``python -m benchmarks.peers.threads STORE REFERENCE PULLS``: the pulls of one process, submitted together."""

from __future__ import annotations

import sys


def _main(root: str, reference: str, pulls: str) -> None:
    import imgpull

    with imgpull.Store(root) as store, imgpull.Puller(store) as puller:
        for future in [puller.submit(reference) for _ in range(int(pulls))]:
            future.result()


if __name__ == "__main__":
    _main(*sys.argv[1:])
