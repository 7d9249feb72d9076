"""The signals that ask a run to end in order."""

import signal


def interrupts() -> tuple[signal.Signals, ...]:
    """Ctrl-C, an end asked for, and a terminal that is closed: unless `nohup` has seen to it that this is ignored."""
    always = signal.SIGINT, signal.SIGTERM
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    return always if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN else (*always, hangup)
