"""An adapter as the files that others load, and back.

`trained` reads what a run made as layers, `names` says what other programs call these, the
``_form`` modules write one kind of file each, and `verifying` reads it again by the rules of who
loads it.
"""

from elf.export.diffusers_form import export_diffusers
from elf.export.importing_diffusers import METADATA_KEY
from elf.export.reading import FILE_NAME, ORIGIN_KEY, read_adapter, read_origin

__all__ = [
    "FILE_NAME",
    "METADATA_KEY",
    "ORIGIN_KEY",
    "export_diffusers",
    "read_adapter",
    "read_origin",
]
