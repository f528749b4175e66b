"""Language models' data: rows of text, tokens with masks of what is trained, packing."""
