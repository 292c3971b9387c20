"""Raw videos and photographs become training shards: probed, cut at scenes, scored, without duplicates."""


class CurateError(Exception):
    """A run that cannot be done as asked: its output folder, recipe, workers, sources or scorers; says the way out."""
