"""What can go wrong, by whose fault: the caller's input, the file, or a claim that does not hold."""


class CorollaryError(Exception):
    """Base of the errors that this library raises on its own account."""


class InputError(CorollaryError, ValueError):
    """An argument was refused before any work; the message names it, what was found and what was expected."""


class ModelFileError(CorollaryError, ValueError):
    """A model file is truncated, foreign, tampered with or of a newer schema."""


class ConvergenceError(CorollaryError, RuntimeError):
    """Raised by `Solution.unwrap` where a solver stopped without reaching its tolerance."""


class CertificateWarning(UserWarning):
    """A certificate does not hold: the answer is returned, but not as good as was claimed."""
