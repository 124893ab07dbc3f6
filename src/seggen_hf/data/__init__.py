"""From any source to records, captions and transforms."""
