"""What duplicate suppression is worth, measured: ``python -m benchmarks``, run from a checkout.

::

    images ──▶ origin ──▶ measure (one child process per scenario, arm and repeat) ──▶ JSON lines
                             │                                                           │
                         baselines (the arms)                                  report · plot (tables, pictures)
"""
