"""The only code that runs with a capability: one dump, for the user whose container it is."""
