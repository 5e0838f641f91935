"""Everything that is run: `python -m launch` lists the commands."""
