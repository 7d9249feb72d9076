"""What the program returns to the shell."""

SUCCESS = 0
USER_ERROR = 2
INTERRUPTED = 130
