"""What can go wrong, with a line that says what would be right."""


class Error(ValueError):
    """A model cannot be loaded or run. status: a number of enum dynet_status in `dynet.h`."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status
