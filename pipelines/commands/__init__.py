"""The commands of ``psc-archive``: options, reports, errors and exit codes."""
