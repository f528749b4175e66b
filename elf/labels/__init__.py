"""The labels folder: text files, the manifest, and decisions of reviewers."""
