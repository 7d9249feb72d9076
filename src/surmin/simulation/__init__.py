"""A model of compute and links: what recorded rounds would take on workers joined by links that are not at hand."""
