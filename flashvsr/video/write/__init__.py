"""Frames and packets into files, pipes and streams."""
