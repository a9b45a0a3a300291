"""What a run is worth: scores, tables."""
