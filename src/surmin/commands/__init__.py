"""What each command does: experiments run with a progress bar, then plotted and summarised."""
