"""``shaped``: a registry behind a line of some latency and rate, and how long after its last byte a pull is ready.

::

    registry ──▶ proxy (a process of its own: delay, one bucket of bytes for all connections) ──▶ peers, one by one
                   └──▶ when the last byte was handed over                run ──▶ table
"""
