"""Taking a trained model elsewhere: as a plain Transformer, to CTranslate2 or stock fairseq."""
