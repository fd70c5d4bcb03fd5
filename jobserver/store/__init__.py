"""SQL, the source of truth: only here sqlalchemy, asyncpg and aiosqlite are imported."""
