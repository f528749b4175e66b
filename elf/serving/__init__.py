"""A page and an API to try adapters: `engine` draws, `page` shows, `catalog` says what there is."""
