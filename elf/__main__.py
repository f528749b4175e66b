"""Lets ``python -m elf`` stand for ``elf``."""

from elf.cli import main

main()
