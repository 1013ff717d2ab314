"""The one exception for input that a user can mend."""


class InputError(Exception):
    """Bad input, told in one line: what is wrong, where, and what to do about it.

    The command line prints the line and exits with code 2; everything else is a defect of ours and keeps its traceback.
    """
