"""Pages and APIs to try adapters: `page` draws pictures, `chatpage` chats with language models."""
