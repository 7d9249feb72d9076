"""What each command of the command line does: experiments run with a progress bar, then drawn and summed up."""
