"""What is not worked out twice: `tagcache` keeps results by content, `fileindex` files' contents.

Labels, embeddings and curation keep theirs by them; neither knows what it keeps.
"""
