"""What ``elf curate`` finds out about pictures: copies, likenesses, quality, proposals.

Nothing here knows Lightning; torch and FiftyOne are imported only where they are needed.
"""
