"""``profile``: where the wall, processor and interpreter-lock time of one library pull go.

::

    run ──▶ child (a process for each round: probes around known functions, a pull) ──▶ table
     └────▶ syscalls (strace -c around the same pull, and around none)
"""
