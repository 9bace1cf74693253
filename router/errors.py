"""The one error of the package."""


class RouterError(ValueError):
    """Weights, training data or settings cannot be used; the message says what to do."""
