"""Pages and APIs to try adapters: of pictures (`engine`, `page`) and of text (`chatengine`, `chatpage`)."""
