"""From labelled pictures to shards: sets, captions, buckets, and what is made of them."""
