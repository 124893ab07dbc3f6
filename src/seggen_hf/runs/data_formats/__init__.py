"""How other trainers want records on disk, a format a file."""
