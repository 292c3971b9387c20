"""What is done to each source in turn: probe, scenes, quality, motion, duplicates, write."""
