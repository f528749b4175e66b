"""Pages and APIs to try adapters: `engine` and `page` of pictures, `chatengine`, `chatpage` of text."""
