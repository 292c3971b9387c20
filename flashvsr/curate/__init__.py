"""Raw videos and photographs become training shards: probed, cut at scenes, scored, without duplicates."""
