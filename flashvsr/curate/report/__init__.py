"""The page of a curation run: what was kept, what was not, and why."""
