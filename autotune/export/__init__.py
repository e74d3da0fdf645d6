"""The winning configuration as files to install: what was measured, by the functions that rendered the trials."""

from autotune.export.bundle import Bundle, bundle, write

__all__ = ["Bundle", "bundle", "write"]
