"""Clear errors for what cannot be trained, before anything changes."""
