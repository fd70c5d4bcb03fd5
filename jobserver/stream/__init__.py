"""Redis, which delivers: only here redis is imported. Whatever is lost here, SQL still knows."""
