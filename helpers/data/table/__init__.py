"""Any table of examples as a source."""
