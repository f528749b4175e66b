"""The labels folder: text files, the manifest, decisions of reviewers, and what models said."""
