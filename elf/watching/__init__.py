"""Looking at a training: one way to show figures, pictures, tables and files, wherever they go."""

from elf.watching.dispatch import (
    Picture,
    log_artifact,
    log_config,
    log_figures,
    log_picture,
    log_table,
    takes_artifacts,
)

__all__ = [
    "Picture",
    "log_artifact",
    "log_config",
    "log_figures",
    "log_picture",
    "log_table",
    "takes_artifacts",
]
