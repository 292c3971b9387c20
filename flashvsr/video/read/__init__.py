"""Files, pipes and streams into frames."""
