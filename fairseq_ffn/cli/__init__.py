"""The command ``fairseq-ffn``: each file parses, calls and prints; the work is done elsewhere."""
