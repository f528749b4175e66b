"""Reading what a user wrote, and saying in one line what is wrong with it."""
