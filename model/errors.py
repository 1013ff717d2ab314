"""The exceptions for what a user can mend."""


class InputError(Exception):
    """Bad input, told in one line: what is wrong, where, and what to do about it.

    The command line prints the line and exits with code 2; everything else is a defect of ours and keeps its traceback.
    """


class MissingWeights(InputError):
    """A method cannot run here for want of its weights: the line is the reason and what to do about it."""
