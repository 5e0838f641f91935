"""Real environments behind one interface in the time convention of the records."""
