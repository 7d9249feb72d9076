"""What the program returns to the shell."""

SUCCESS = 0
UNEXPECTED = CHECK_FAILED = 1
USER_ERROR = 2
WORKER_LOST = 3
DIVERGED = 4
INTERRUPTED = 130
OUTPUT_CLOSED = 141  # as the shell says of a program that SIGPIPE has ended
