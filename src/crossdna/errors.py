"""Errors whose cause lies outside this package."""


class CrossDNAError(ValueError):
    """Something the user can mend: the message says where and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class BackendUnavailableError(CrossDNAError):
    """An operator's backend was asked for by name and cannot run here."""
