"""What a curation run refuses, before it begins or when nothing came of it."""


class CurateError(Exception):
    """A run that cannot be done as asked: its output folder, recipe, workers, sources or scorers; says the way out."""
