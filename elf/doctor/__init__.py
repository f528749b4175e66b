"""``elf doctor``: what Elf needs, each thing tried, with the command that mends it.

A check says ``good``, ``note`` (something is absent or scarce, and Elf goes on) or ``broken``
(something that is there, or that is needed, does not work).
"""
