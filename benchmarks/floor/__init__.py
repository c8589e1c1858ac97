"""``floor``: what a verified pull must cost here at least, by the standard library and isal alone, beside imgpull's.

::

    run ──▶ stages (a child process for each stage of each round) ──▶ apply (the bare tar loop)
     └────▶ measure (imgpull's library call, in the same round)          table
"""
