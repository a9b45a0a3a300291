"""What fairseq-generate runs for translation: measured here, and made fast here."""
